@0xf44732d435305f86;

$import "/capnp/c++.capnp".namespace("sandstorm");

using import "supervisor.capnp".SystemPersistent;
using import "util.capnp".ByteStream;
using import "util.capnp".Handle;

struct IpAddress @0xeeb98f9937d32c0b {
  lower64 @0 :UInt64;
  upper64 @1 :UInt64;
}

interface IpInterface @0xe32c506ee93ed6fa {
  listenTcp @0 (portNum :UInt16, port :TcpPort) -> (handle :Handle);
  listenUdp @1 (portNum :UInt16, port :UdpPort) -> (handle :Handle);
}

interface IpNetwork @0xa982576b7a2a2040 {
  getRemoteHost @0 (address :IpAddress) -> (host :IpRemoteHost);
  getRemoteHostByName @1 (address :Text) -> (host :IpRemoteHost);

  struct PowerboxTag @0xcf9e3f33950df819 {
    encryption @0 :Encryption;

    struct Encryption @0xe2d94cf90fe4078d {
      union {
        none @0 :Void;
        tls @1 :Void;
      }
    }
  }
}

struct IpPortPowerboxMetadata @0x856e71a6a4f22bba {
  preferredPortNum @0 :UInt16;
  preferredHost @1 :Text;
}

interface IpRemoteHost @0x905dd76b298b3130 {
  getTcpPort @0 (portNum :UInt16) -> (port :TcpPort);
  getUdpPort @1 (portNum :UInt16) -> (port :UdpPort);
}

interface PersistentIpInterface @0xcf43ebe6a5a6f1b4 extends(IpInterface, SystemPersistent) {
}

interface PersistentIpNetwork @0xa5b3215660e038f2 extends(IpNetwork, SystemPersistent) {
}

interface TcpPort @0xeab20e1af07806b4 {
  connect @0 (downstream :ByteStream) -> (upstream :ByteStream);
}

interface UdpPort @0xc6212e1217d001ce {
  send @0 (message :Data, returnPort :UdpPort) -> ();
}
