//! A TCP proxy that tears what goes through it: each connection lands on the next gateway that answers, and is reset after a
//! random time, or with all others on request.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

/// A running proxy; everything it carries ends with it.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<ProxyState>,
    _task: JoinSet<()>,
}

struct ProxyState {
    upstreams: Vec<SocketAddr>,
    next: AtomicUsize,
    cut_every: Duration,
    cutting: AtomicBool,
    cuts: AtomicU64,
    /// Counts the times that every connection was cut at once.
    all: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) async fn start(upstreams: Vec<SocketAddr>, cut_every: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(ProxyState {
            upstreams,
            next: AtomicUsize::new(0),
            cut_every,
            cutting: AtomicBool::new(true),
            cuts: AtomicU64::new(0),
            all: watch::Sender::new(0),
        });
        let mut task = JoinSet::new();
        let accepting = Arc::clone(&shared);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&accepting);
                connections.spawn(async move { shared.carry(client).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, shared, _task: task })
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/connection/websocket", self.address)
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    /// Resets every connection there is.
    pub(crate) fn cut_all(&self) {
        self.shared.all.send_modify(|times| *times += 1);
    }

    /// From now on no connection is cut at random.
    pub(crate) fn stop_cutting(&self) {
        self.shared.cutting.store(false, Ordering::Relaxed);
    }
}

impl ProxyState {
    async fn carry(&self, mut client: TcpStream) {
        let Some(mut gateway) = self.dial().await else { return };
        let life = self.cut_every.mul_f64(0.5 + rand::random::<f64>());
        let mut all = self.all.subscribe();
        let cut = async {
            loop {
                sleep(life).await;
                if self.cutting.load(Ordering::Relaxed) {
                    return;
                }
            }
        };
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut gateway) => {}
            () = async { tokio::select! { () = cut => {} _ = all.changed() => {} } } => {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                // A reset, not an end: what was on the way is lost on both sides.
                let _ = client.set_zero_linger();
                let _ = gateway.set_zero_linger();
            }
        }
    }

    async fn dial(&self) -> Option<TcpStream> {
        for _ in &self.upstreams {
            let index = self.next.fetch_add(1, Ordering::Relaxed) % self.upstreams.len();
            if let Some(address) = self.upstreams.get(index)
                && let Ok(stream) = TcpStream::connect(address).await
            {
                return Some(stream);
            }
        }
        None
    }
}
