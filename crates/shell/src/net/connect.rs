//! A connection to a judged address, with TLS where the scheme says so.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

use super::addresses::is_public;
use super::fail;
use crate::error::{Error, Result};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// For one of several addresses.
const CONNECT_TIME: Duration = Duration::from_secs(10);

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to the host of `url`.
pub async fn connect(url: &Url, allow_private: bool) -> Result<Box<dyn Stream>> {
    let Some(port) = url.port_or_known_default() else { return fail("the address has no port") };
    let (name, addresses) = match url.host() {
        None => return fail("the address has no host"),
        Some(Host::Ipv4(ip)) => (ip.to_string(), vec![IpAddr::V4(ip)]),
        Some(Host::Ipv6(ip)) => (ip.to_string(), vec![IpAddr::V6(ip)]),
        Some(Host::Domain(name)) => (name.to_owned(), resolve(name).await?),
    };
    // One bad address spoils the name: which one a connection takes would be chance.
    if let Some(bad) = addresses.iter().find(|ip| !allow_private && !is_public(**ip)) {
        return fail(format!(
            "{name} is at {bad}, an address that is not of the public internet; the operator can \
             allow those with ALLOW_PRIVATE_DOWNLOADS"
        ));
    }
    let stream = first(&name, &addresses, port).await?;
    if url.scheme() != "https" {
        return Ok(Box::new(stream));
    }
    let server = ServerName::try_from(name.clone())
        .map_err(|e| Error::BadRequest(format!("{name} is no name for a certificate: {e}")))?;
    match TlsConnector::from(tls()?).connect(server, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(e) => fail(format!("no secure connection to {name}: {e}")),
    }
}

async fn first(name: &str, addresses: &[IpAddr], port: u16) -> Result<TcpStream> {
    let mut why = format!("{name} has no address");
    for ip in addresses.iter().take(MAX_ADDRESSES) {
        let address = SocketAddr::new(*ip, port);
        match tokio::time::timeout(CONNECT_TIME, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => why = format!("{name} ({ip}) cannot be reached: {e}"),
            Err(_) => why = format!("{name} ({ip}) does not answer"),
        }
    }
    fail(why)
}

async fn resolve(name: &str) -> Result<Vec<IpAddr>> {
    // RFC 6761: this name is this machine, whatever a resolver says.
    let bare = name.trim_end_matches('.');
    if bare == "localhost" || bare.ends_with(".localhost") {
        return Ok(vec![IpAddr::from([127, 0, 0, 1])]);
    }
    let resolver = TokioResolver::builder_tokio()
        .map_err(|e| Error::Internal(format!("the resolver's settings cannot be read: {e}")))?
        .build();
    match resolver.lookup_ip(name).await {
        Ok(found) => Ok(found.iter().collect()),
        Err(e) if e.is_no_records_found() => fail(format!("there is no host called {name}")),
        Err(e) => fail(format!("{name} could not be looked up: {e}")),
    }
}

/// The system's certificates and, for machines without any, Mozilla's.
fn tls() -> Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Internal(format!("TLS: {e}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}
