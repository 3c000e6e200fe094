//! TLS of the listener for clients: its certificate, which is read again while the gateway runs, and the handshake.
//!
//! A new certificate is for new sockets; those that are open go on. A bad one is reported, and the former one stays.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use tidegate_shared::{config::TlsConfig, lifecycle::Lifecycle};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, InconsistentKeys, ServerConfig,
        crypto::{CryptoProvider, aws_lc_rs},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
    server::TlsStream,
};

/// A longer file is no certificate and no key.
const LONGEST_FILE: u64 = 1024 * 1024;
/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 22;
/// The most that is read of a request without TLS.
const LONGEST_PLAIN: u64 = 64 * 1024;
/// What a client without TLS is told.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 61\r\nconnection: close\r\n\r\n\
    this address speaks TLS: its addresses are wss:// or https://";

/// TLS of one listener.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    files: Arc<Files>,
    /// What the files had in them when they were first read.
    first: Arc<Contents>,
    current: Arc<Current>,
}

/// Where the certificate comes from.
struct Files {
    config: TlsConfig,
    provider: Arc<CryptoProvider>,
}

/// The certificate for new sockets.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

/// The bytes of both files.
type Contents = (Vec<u8>, Vec<u8>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl Tls {
    /// Reads the certificate and its key. `None` if the configuration has none.
    pub(crate) fn load(config: &TlsConfig) -> anyhow::Result<Option<Self>> {
        if !config.is_on() {
            return Ok(None);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let files = Files { config: config.clone(), provider: Arc::clone(&provider) };
        let first = Arc::new(files.read().map_err(anyhow::Error::msg)?);
        let certificate = files.certificate(&first).map_err(anyhow::Error::msg)?;
        let current = Arc::new(Current(RwLock::new(Arc::new(certificate))));
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as _);
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            files: Arc::new(files),
            first,
            current,
        }))
    }

    /// Begins to read the files again and again.
    pub(crate) fn watch(&self, lifecycle: &Lifecycle) {
        let (this, until) = (self.clone(), lifecycle.clone());
        lifecycle.spawn(async move {
            tokio::select! {
                () = this.reload() => {}
                () = until.draining() => {}
            }
        });
    }

    async fn reload(&self) {
        let mut last = Ok(Contents::clone(&self.first));
        loop {
            let files = Arc::clone(&self.files);
            let found =
                spawn_blocking(move || files.read()).await.unwrap_or_else(|error| Err(error.to_string()));
            // What was looked at already is not reported again.
            if last != found {
                let certificate = found.as_ref().map_err(String::clone);
                match certificate.and_then(|contents| self.files.certificate(contents)) {
                    Ok(certificate) => {
                        *self.current.0.write() = Arc::new(certificate);
                        tracing::info!(file = %self.files.config.certificate.display(), "new connections get a new certificate");
                    }
                    Err(error) => tracing::error!(
                        error,
                        "the certificate was not replaced: the former one is still used"
                    ),
                }
            }
            last = found;
            sleep(self.files.config.reload).await;
        }
    }

    /// Makes the handshake. `None` if it fails, or does not end in time.
    pub(super) async fn accept(&self, stream: TcpStream, patience: Duration) -> Option<TlsStream<TcpStream>> {
        match timeout(patience, self.shake_hands(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => None,
        }
    }

    async fn shake_hands(&self, mut stream: TcpStream) -> std::io::Result<Option<TlsStream<TcpStream>>> {
        let mut first = [0];
        if stream.peek(&mut first).await? > 0 && first != [HANDSHAKE] {
            stream.write_all(PLAIN).await?;
            stream.shutdown().await?;
            // Closing a socket with unread input would reset it and lose the answer.
            tokio::io::copy(&mut stream.take(LONGEST_PLAIN), &mut tokio::io::sink()).await?;
            return Ok(None);
        }
        self.acceptor.accept(stream).await.map(Some)
    }
}

impl Files {
    fn read(&self) -> Result<Contents, String> {
        let (certificate, key) = (&self.config.certificate, &self.config.key);
        let named = |key: &str, file: &Path, why: &dyn std::fmt::Display| {
            format!("gateway.tls.{key}: {}: {why}", file.display())
        };
        let public = contents(certificate).map_err(|error| named("certificate", certificate, &error))?;
        if is_open_to_all(key).map_err(|error| named("key", key, &error))? {
            let why = format!(
                "everybody on this machine can use the file: run `chmod o= {}`, and consider the key known",
                key.display()
            );
            return Err(named("key", key, &why));
        }
        Ok((public, contents(key).map_err(|error| named("key", key, &error))?))
    }

    /// Makes a certificate of the files, if they belong together.
    fn certificate(&self, (certificate, key): &Contents) -> Result<CertifiedKey, String> {
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| format!("gateway.tls.certificate is no PEM file: {error:?}"))?;
        if chain.is_empty() {
            return Err("gateway.tls.certificate has no certificate in it".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| "gateway.tls.key has no private key in it (PEM)".to_owned())?;
        let key = self.provider.key_provider.load_private_key(key);
        let key = key.map_err(|error| format!("gateway.tls.key cannot be used: {error}"))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err("gateway.tls.key is not the key of gateway.tls.certificate".to_owned())
            }
            Err(error) => Err(format!("gateway.tls.certificate cannot be used: {error}")),
        }
    }
}

fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(unix)]
fn is_open_to_all(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::metadata(path)?.permissions().mode() & 0o007 != 0)
}

#[cfg(not(unix))]
fn is_open_to_all(path: &Path) -> std::io::Result<bool> {
    fs::metadata(path).map(|_| false)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[tokio::test]
    async fn a_certificate_that_is_replaced_right_after_the_start_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let renew = || {
            let pair = KeyPair::generate().unwrap();
            let made = CertificateParams::new(vec!["x.example.com".to_owned()]).unwrap().self_signed(&pair);
            let made = made.unwrap();
            fs::write(&certificate, made.pem()).unwrap();
            fs::write(&key, pair.serialize_pem()).unwrap();
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
            made.der().clone()
        };
        let first = renew();
        let config =
            TlsConfig { certificate: certificate.clone(), key: key.clone(), reload: Duration::from_hours(1) };
        let tls = Tls::load(&config).unwrap().unwrap();
        assert_eq!(tls.current.0.read().cert, [first]);
        let second = renew();
        let used = async {
            while tls.current.0.read().cert[0] != second {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = tls.reload() => {}
            used = timeout(Duration::from_secs(10), used) => used.expect("the first look finds it"),
        }
    }
}
