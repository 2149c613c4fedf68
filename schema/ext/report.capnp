# What a supervisor knows of its grain's limits. The object that it serves on the grain's socket has
# this interface beside `Supervisor`; `unimplemented` means an older one.
#
# A supervisor is less trusted than the shell: names and texts are short, and shown as text only.

@0xcd5cbc79d3eda2cb;

$import "/capnp/c++.capnp".namespace("sandstorm::ext");

using import "/sandstorm/supervisor.capnp".Supervisor;

interface GrainReport @0xb31e1c5e36d18c5b {
  limits @0 () -> (limits :List(LimitState));
  # One entry for each limit of this grain, in the order of the program's table of limits.
}

interface ReportingSupervisor @0xe41bb0c8e8ad3f1d extends(Supervisor, GrainReport) {
  # What our supervisor serves on the grain's socket.
}

struct LimitState @0x8ee4ba0bd0bd3c0a {
  name @0 :Text;
  # As `--limit NAME=VALUE` knows it.

  value @1 :UInt64;
  # In the unit of that table.

  by @2 :Text;
  # What keeps it: "cgroup v2", "cgroup v1", "rlimit", "tmpfs", "quota", "accounting", "supervisor", or
  # "nothing".

  used @3 :UInt64;
  # Now, in the same unit; 0 where nobody counts.

  hits @4 :UInt64;
  # How often it was met since the grain started, as far as anybody counts.
}
