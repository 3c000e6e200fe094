//! TLS on the listener for clients: real clients, a certificate that is replaced, and peers that speak it badly or not at all.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tidegate_cli::{
    client::{Client, ConnectError, Events, Options},
    stack::{Builder, Stack},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

use crate::{
    limits::metric,
    socket::{TEXT, frame, parse},
    support::{PATIENCE, eventually, http, nothing_panicked, service, start, token, url},
};

/// An authority whose certificates a client trusts, and the files of a gateway.
struct Files {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let this = Self { dir: tempfile::tempdir().unwrap(), authority };
        fs::write(this.dir.path().join("ca.pem"), this.authority.pem()).unwrap();
        this.renew("one.example.com");
        this
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a new certificate with this name, and its key.
    fn renew(&self, name: &str) {
        let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.authority).unwrap();
        self.replace("cert.pem", &certificate.pem(), 0o644);
        self.replace("key.pem", &key.serialize_pem(), 0o600);
    }

    /// Replaces a file at once, as those who renew certificates do.
    fn replace(&self, name: &str, content: &str, mode: u32) {
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, content).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    fn stack(&self, more: &str) -> Builder {
        let quoted = |path: &Path| format!("'{}'", path.display());
        let (certificate, key) = (quoted(&self.path("cert.pem")), quoted(&self.path("key.pem")));
        Stack::builder().config(&format!(
            "[gateway.tls]\ncertificate = {certificate}\nkey = {key}\nreload = '100ms'\n{more}\n{}",
            crate::support::TOML
        ))
    }

    async fn connect(&self, stack: &Stack) -> Result<(Client, Events), ConnectError> {
        let options = Options::new(url(stack, 0)).token(token(stack, "42"));
        Client::connect(Options { ca: Some(self.path("ca.pem")), ..options }).await
    }

    /// A handshake for this name. It fails if the certificate has another.
    async fn handshake(&self, stack: &Stack, name: &str) -> bool {
        let tcp = TcpStream::connect(stack.gateways()[0].public).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        self.connector(&[&TLS13]).connect(name, tcp).await.is_ok()
    }

    /// A client that trusts the authority and speaks these versions.
    fn connector(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
        TlsConnector::from(Arc::new(config.with_no_client_auth()))
    }
}

/// Writes each byte by itself.
struct SingleBytes(TcpStream);

impl AsyncRead for SingleBytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for SingleBytes {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &buf[..1.min(buf.len())])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Handshakes that failed.
async fn refused(stack: &Stack) -> u64 {
    metric(stack, "tidegate_gateway_connections_refused_total{reason=\"tls\"}").await
}

#[tokio::test]
async fn a_client_talks_over_tls_1_2_and_1_3() {
    let files = Files::new();
    let stack = start(files.stack("").gateways(1).workers(1)).await;
    assert!(url(&stack, 0).starts_with("wss://"), "{}", url(&stack, 0));
    let (client, _events) = files.connect(&stack).await.unwrap();
    assert_eq!(client.rpc("echo", "1").await.unwrap(), "1");
    let large = format!("\"{}\"", "x".repeat(50_000));
    assert_eq!(client.rpc("echo", large.clone()).await.unwrap(), large);
    for version in [&TLS12, &TLS13] {
        let tcp = TcpStream::connect(stack.gateways()[0].public).await.unwrap();
        let name = ServerName::try_from("one.example.com").unwrap();
        let mut stream = files.connector(&[version]).connect(name, tcp).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut page = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut page)).await.unwrap().unwrap();
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("Tidegate"), "{page}");
    }
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_new_certificate_is_for_new_sockets_and_a_bad_one_changes_nothing() {
    let files = Files::new();
    let stack = start(files.stack("").gateways(1).workers(1)).await;
    let (old, _events) = files.connect(&stack).await.unwrap();
    assert!(
        files.handshake(&stack, "one.example.com").await && !files.handshake(&stack, "two.example.com").await
    );
    files.renew("two.example.com");
    eventually("new sockets get the new certificate", || files.handshake(&stack, "two.example.com")).await;
    assert!(!files.handshake(&stack, "one.example.com").await);
    assert_eq!(old.rpc("echo", "1").await.unwrap(), "1", "the old socket goes on");
    let good = fs::read_to_string(files.path("key.pem")).unwrap();
    let other = KeyPair::generate().unwrap().serialize_pem();
    for (content, mode, words) in [
        ("rubbish".to_owned(), 0o600, "no private key in it"),
        (other, 0o600, "is not the key of gateway.tls.certificate"),
        (good.clone(), 0o644, "everybody on this machine can use the file"),
    ] {
        files.replace("key.pem", &content, mode);
        eventually(words, || async { stack.log_of("gateway-1").contains(words) }).await;
        assert!(files.handshake(&stack, "two.example.com").await, "{words}");
    }
    fs::remove_file(files.path("cert.pem")).unwrap();
    eventually("the missing file is reported", || async {
        stack.log_of("gateway-1").contains("cert.pem: No such file")
    })
    .await;
    assert!(files.handshake(&stack, "two.example.com").await);
    files.renew("three.example.com");
    eventually("the next good certificate is taken", || files.handshake(&stack, "three.example.com")).await;
    assert_eq!(old.rpc("echo", "2").await.unwrap(), "2");
    let log = stack.log_of("gateway-1");
    assert!(!log.contains(good.lines().nth(1).unwrap()), "no key in the log");
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_gateway_with_a_bad_certificate_does_not_start_and_says_why() {
    let files = Files::new();
    for (name, content, mode, words) in [
        ("key.pem", "rubbish", 0o600, "gateway.tls.key has no private key in it"),
        ("key.pem", "rubbish", 0o644, "everybody on this machine can use the file"),
        ("cert.pem", "", 0o644, "gateway.tls.certificate has no certificate in it"),
    ] {
        files.renew("one.example.com");
        files.replace(name, content, mode);
        let error =
            format!("{:#}", files.stack("").gateways(1).start().await.expect_err("it does not start"));
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[tokio::test]
async fn a_handshake_in_single_bytes_is_one() {
    let files = Files::new();
    let stack = start(files.stack("").gateways(1)).await;
    let tcp = TcpStream::connect(stack.gateways()[0].public).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let name = ServerName::try_from("one.example.com").unwrap();
    let mut stream = files.connector(&[&TLS13]).connect(name, SingleBytes(tcp)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    let mut page = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut page)).await.unwrap().unwrap();
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_handshake_that_is_never_finished_ends_in_time() {
    let files = Files::new();
    let stack = start(files.stack("[gateway.limits]\nhandshake = '1s'").gateways(1).workers(1)).await;
    let (client, _events) = files.connect(&stack).await.unwrap();
    for begin in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut socket = TcpStream::connect(stack.gateways()[0].public).await.unwrap();
        socket.write_all(begin).await.unwrap();
        let mut rest = Vec::new();
        // The end of a socket may be a reset.
        let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("the socket is closed");
    }
    eventually("they are counted", || async { refused(&stack).await == 3 }).await;
    assert_eq!(client.rpc("echo", "1").await.unwrap(), "1");
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_client_without_tls_is_told_and_rubbish_is_refused() {
    let files = Files::new();
    let stack = start(files.stack("").gateways(1)).await;
    let public = stack.gateways()[0].public;
    let (status, text) = http(public, "GET /connection/websocket HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(status == 400 && text.contains("wss://"), "{status} {text}");
    let mut socket = TcpStream::connect(public).await.unwrap();
    socket.write_all(&[22, 3, 1, 0, 5, 9, 9, 9, 9, 9]).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("the socket is closed");
    eventually("they are counted", || async { refused(&stack).await == 2 }).await;
    nothing_panicked(&stack);
}

#[tokio::test]
async fn a_client_that_is_too_slow_gets_whole_frames_and_then_the_reason() {
    let files = Files::new();
    let limits = "[gateway.limits]\noutbox = '1 MiB'\n";
    let namespace = "[[namespace]]\nname = 'open'\nallow_subscribe = 'authenticated'\n";
    let stack = start(files.stack(&format!("{limits}{namespace}")).gateways(1)).await;
    let tcp = TcpSocket::new_v4().unwrap();
    tcp.set_recv_buffer_size(16 * 1024).unwrap();
    let tcp = tcp.connect(stack.gateways()[0].public).await.unwrap();
    let name = ServerName::try_from("one.example.com").unwrap();
    let mut client = files.connector(&[&TLS13]).connect(name, tcp).await.unwrap();
    let head = "GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let connect = serde_json::json!({"id": 1, "connect": {"token": token(&stack, "42")}});
    let commands = format!("{connect}\n{}", r#"{"id":2,"subscribe":{"channel":"open:a"}}"#);
    client.write_all(&frame(TEXT, commands.as_bytes())).await.unwrap();
    client.flush().await.unwrap();
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(r#""id":2"#) {
        assert!(timeout(PATIENCE, client.read_buf(&mut read)).await.unwrap().unwrap() > 0);
    }
    assert!(!String::from_utf8_lossy(&read).contains("error"), "{}", String::from_utf8_lossy(&read));
    // A message is more than TLS holds back by itself, so a write that is blocked ends inside one.
    let nats = service(&stack).await;
    let data = bytes::Bytes::from(format!("\"{}\"", "x".repeat(470_000)));
    let closes = "tidegate_gateway_disconnects_total{code=\"3008\"}";
    let mut sent = 0;
    while metric(&stack, closes).await == 0 {
        assert!(sent < 100, "the gateway ends a client that does not read");
        // One by one, so that the socket is full before the outbox is.
        nats.publish("tide.ch.open.a", data.clone()).await.unwrap();
        nats.flush().await.unwrap();
        sent += 1;
        eventually("it is delivered", || async {
            metric(&stack, "tidegate_gateway_deliveries_total").await >= sent
        })
        .await;
    }
    // The end of a socket may be a reset.
    let _ = timeout(PATIENCE, client.read_to_end(&mut read)).await.expect("the socket ends");
    let begin = read.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let (mut rest, mut last) = (&read[begin..], None);
    while let Some(((opcode, payload), length)) = parse(rest) {
        assert!(matches!(opcode, TEXT | 8), "a frame begins where none is: {opcode}");
        for line in payload.split(|byte| *byte == b'\n').filter(|_| opcode == TEXT) {
            serde_json::from_slice::<serde_json::Value>(line).expect("a whole reply");
        }
        rest = &rest[length..];
        last = Some((opcode, payload));
    }
    assert!(rest.is_empty(), "{} bytes are no frame", rest.len());
    let (opcode, reason) = last.unwrap();
    assert_eq!((opcode, &reason[..2]), (8, &3008_u16.to_be_bytes()[..]));
    nothing_panicked(&stack);
}
