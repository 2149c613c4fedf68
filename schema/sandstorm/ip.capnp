# Raw network access: for the few apps that need it, and only if an administrator gives it.

@0xf44732d435305f86;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "supervisor.capnp".SystemPersistent;
using import "util.capnp".ByteStream;
using import "util.capnp".Handle;

struct IpAddress @0xeeb98f9937d32c0b {
  # An IPv6 address of 128 bits, or an IPv4 address mapped into it (`::ffff:a.b.c.d`).

  lower64 @0 :UInt64;
  upper64 @1 :UInt64;
  # As numbers: `upper64` holds the first eight bytes, most significant first.
}

interface IpNetwork @0xa982576b7a2a2040 {
  # A network to call out to.

  getRemoteHost @0 (address :IpAddress) -> (host :IpRemoteHost);
  getRemoteHostByName @1 (address :Text) -> (host :IpRemoteHost);
  # A host by address, or by a name that is looked up when it is used.

  struct PowerboxTag @0xcf9e3f33950df819 {
    encryption @0 :Encryption;

    struct Encryption @0xe2d94cf90fe4078d {
      union {
        none @0 :Void;
        # What is written goes out as it is.

        tls @1 :Void;
        # The network does TLS with the host, and checks its name.
      }
    }
  }
}

interface IpRemoteHost @0x905dd76b298b3130 {
  getTcpPort @0 (portNum :UInt16) -> (port :TcpPort);
  getUdpPort @1 (portNum :UInt16) -> (port :UdpPort);
}

interface TcpPort @0xeab20e1af07806b4 {
  connect @0 (downstream :ByteStream) -> (upstream :ByteStream);
  # A connection: write to `upstream`; what comes back is written to `downstream`. `done` closes
  # one direction, dropping the stream ends it.
}

interface UdpPort @0xc6212e1217d001ce {
  send @0 (message :Data, returnPort :UdpPort) -> ();
  # One datagram, and where answers go. Success does not mean that it arrived.
}

interface IpInterface @0xe32c506ee93ed6fa {
  # An address to be called at.

  listenTcp @0 (portNum :UInt16, port :TcpPort) -> (handle :Handle);
  listenUdp @1 (portNum :UInt16, port :UdpPort) -> (handle :Handle);
  # Hands what comes in to `port` until the handle is dropped.
}

interface PersistentIpNetwork @0xa5b3215660e038f2 extends(IpNetwork, SystemPersistent) {
  # As the server hands them out: they can be saved.
}

interface PersistentIpInterface @0xcf43ebe6a5a6f1b4 extends(IpInterface, SystemPersistent) {
}

struct IpPortPowerboxMetadata @0x856e71a6a4f22bba {
  # In a powerbox query for a port: what the one who asks would like best.

  preferredPortNum @0 :UInt16;
  preferredHost @1 :Text;
}
