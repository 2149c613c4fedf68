@0xf1ddb6d3b831f794;

# The same manifest as seed-manifest.capnp, in the names of today.

using Package = import "/sandstorm/package.capnp";

const manifest :Package.Manifest = (
  appVersion = 0,
  actions = [(
    input = (none = void),
    title = (defaultText = "New Widget"),
    command = (
      deprecatedExecutablePath = "/legacy-bridge",
      argv = ["127.0.0.1:8080", "/run-first-time.sh"]
    )
  )],
  continueCommand = (
    deprecatedExecutablePath = "/legacy-bridge",
    argv = ["127.0.0.1:8080", "/run-continue.sh"]
  )
);
