//! Opens a WebSocket to a gateway.

use std::{path::Path, sync::Arc};

use tidegate_shared::{
    failure,
    protocol::{Encoding, PROTOBUF_SUBPROTOCOL},
};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_tungstenite::{
    Connector, connect_async_tls_with_config,
    tungstenite::{
        Error,
        client::IntoClientRequest,
        handshake::client::Request,
        http::{HeaderName, HeaderValue, header},
        protocol::WebSocketConfig,
    },
};

use super::{error::ConnectError, options::Options, socket::ClientSocket};

/// Buffer size. A load generator holds thousands of connections; the library's default of 128 KiB each would be gigabytes.
const BUFFER: usize = 4 * 1024;

pub(super) async fn open(options: &Options) -> Result<ClientSocket, ConnectError> {
    let config = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    let connector = options
        .ca
        .as_deref()
        .map(trusting)
        .transpose()
        .map_err(|reason| ConnectError::Address { url: options.url.clone(), reason })?;
    // TLS makes the future large, and who opens connections has many.
    let opening = Box::pin(connect_async_tls_with_config(request(options)?, Some(config), true, connector));
    let opened = tokio::time::timeout(options.timeout, opening).await;
    let url = options.url.clone();
    match opened {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(response))) => Err(ConnectError::Http { url, status: response.status().as_u16() }),
        Ok(Err(Error::Url(error))) => Err(ConnectError::Address { url, reason: error.to_string() }),
        Ok(Err(Error::Io(error))) => {
            Err(ConnectError::Unreachable { url, reason: failure::without_number(&error.to_string()) })
        }
        Ok(Err(error)) => Err(ConnectError::NoWebSocket { url, reason: error.to_string() }),
        Err(_) => Err(ConnectError::Unreachable { url, reason: "no answer in time".to_owned() }),
    }
}

/// Trusts the certificates of this file, and no other.
fn trusting(file: &Path) -> Result<Connector, String> {
    let why = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(file).map_err(|error| why(&format!("{error:?}")))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| why(&format!("{error:?}")))?;
        roots.add(certificate).map_err(|error| why(&error))?;
    }
    if roots.is_empty() {
        return Err(why(&"no certificate in it (PEM)"));
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Connector::Rustls(Arc::new(config)))
}

fn request(options: &Options) -> Result<Request, ConnectError> {
    let wrong = |reason: String| ConnectError::Address { url: options.url.clone(), reason };
    let mut request = options.url.as_str().into_client_request().map_err(|error| wrong(error.to_string()))?;
    // The library takes the scheme's port when the text behind the colon is none.
    let uri = request.uri();
    let behind =
        uri.authority().and_then(|named| named.as_str().strip_prefix(named.host())).unwrap_or_default();
    if !behind.is_empty() && uri.port_u16().is_none_or(|port| port == 0) {
        return Err(wrong("its port is no number from 1 to 65535".to_owned()));
    }
    match uri.scheme_str() {
        Some("ws" | "wss") => {}
        scheme => {
            return Err(wrong(format!(
                "its scheme is {:?}, and has to be \"ws\" or \"wss\"",
                scheme.unwrap_or_default()
            )));
        }
    }
    let mut insert = |name: HeaderName, value: &str| -> Result<(), ConnectError> {
        let value = HeaderValue::from_str(value).map_err(|error| wrong(format!("{name}: {error}")))?;
        request.headers_mut().insert(name, value);
        Ok(())
    };
    if options.encoding == Encoding::Protobuf {
        insert(header::SEC_WEBSOCKET_PROTOCOL, PROTOBUF_SUBPROTOCOL)?;
    }
    if let Some(origin) = &options.origin {
        insert(header::ORIGIN, origin)?;
    }
    Ok(request)
}
