//! A raw WebSocket for tests of bad input: it sends arbitrary messages and does not answer pings.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tidegate_shared::protocol::{Encoding, Reply};
use tokio_tungstenite::tungstenite::Message;

use super::{codec, error::ConnectError, handshake, options::Options, socket::ClientSocket};

/// How long the gateway may take to send a message.
const PATIENCE: Duration = Duration::from_secs(15);

/// An open WebSocket without a connect command.
#[derive(Debug)]
pub struct RawClient {
    socket: ClientSocket,
    encoding: Encoding,
    replies: std::collections::VecDeque<Reply>,
}

impl RawClient {
    /// Opens a WebSocket. Sends no connect command.
    pub async fn open(options: &Options) -> Result<Self, ConnectError> {
        let socket = handshake::open(options).await?;
        Ok(Self { socket, encoding: options.encoding, replies: std::collections::VecDeque::new() })
    }

    /// Sends a text message unchanged.
    pub async fn send_text(&mut self, text: &str) -> anyhow::Result<()> {
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// Sends a binary message unchanged.
    pub async fn send_binary(&mut self, bytes: impl Into<Bytes>) -> anyhow::Result<()> {
        Ok(self.socket.send(Message::binary(bytes.into())).await?)
    }

    /// Returns the next reply or push. Skips pings.
    pub async fn reply(&mut self) -> anyhow::Result<Reply> {
        loop {
            while let Some(reply) = self.replies.pop_front() {
                if reply != Reply::ping() {
                    return Ok(reply);
                }
            }
            match self.message().await? {
                Message::Close(frame) => bail!("closed instead of a reply: {frame:?}"),
                message => self.replies.extend(codec::replies(self.encoding, message)?),
            }
        }
    }

    /// Waits for the close frame, skips other messages, and checks its code. Returns the reason.
    pub async fn expect_close(&mut self, code: u16) -> anyhow::Result<String> {
        loop {
            if let Message::Close(frame) = self.message().await? {
                let frame = frame.context("closed without a code")?;
                let found = u16::from(frame.code);
                ensure!(found == code, "closed with {found} {:?} instead of {code}", frame.reason.as_str());
                return Ok(frame.reason.to_string());
            }
        }
    }

    async fn message(&mut self) -> anyhow::Result<Message> {
        let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
        Ok(next
            .context("the gateway sent no message in time")?
            .context("the connection ended without a close frame")??)
    }
}
