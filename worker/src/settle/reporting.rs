//! Brings the reports of a handler to its client while it runs, on routes with `progress = true`. Nothing is stored, and a report
//! that a newer one follows within a quarter of a second is left out.

use std::{convert::Infallible, future::pending, time::Duration};

use serde::Serialize;
use tidegate_shared::{envelope::AnswerWay, id::ClientId, job::Report};
use tokio::sync::watch;

use super::Settlement;
use crate::{inquiry, progress::Reported};

/// How long a handler may take to say all of one report.
const GATHER: Duration = Duration::from_millis(10);
/// The least time between two messages about one request.
const INTERVAL: Duration = Duration::from_millis(250);

/// What the client gets, as a message.
#[derive(Serialize)]
struct Told<'a> {
    progress: Progress<'a>,
}

#[derive(Serialize)]
struct Progress<'a> {
    id: &'a str,
    #[serde(flatten)]
    report: Report,
}

impl Settlement {
    /// Sends reports for as long as the future is polled. `reports` has to be from before the handler began: its first report may
    /// be its last one, and made before this future is polled.
    pub(super) async fn report(&self, mut reports: watch::Receiver<Reported>) -> Infallible {
        let subject = self.route.config.progress.then(|| self.listener()).flatten();
        let Some(subject) = subject else { return pending().await };
        while reports.changed().await.is_ok() {
            tokio::time::sleep(GATHER).await;
            reports.mark_unchanged();
            self.send_report(&subject).await;
            tokio::time::sleep(INTERVAL).await;
        }
        pending().await
    }

    /// Where its client hears of it: the connection that waits; or all of the user's, if the answer comes to the personal channel or
    /// to whichever connection asks with the key. Nobody hears of a silent follow-up, as nobody hears its answer.
    fn listener(&self) -> Option<String> {
        let subjects = &self.engine.subjects;
        match (&self.request.user, &self.request.client) {
            (_, None) if !self.request.later => None,
            (Some(user), _) if self.request.answer_way() == AnswerWay::Stored => {
                Some(subjects.push_user(user))
            }
            (_, Some(client)) => Some(subjects.push_client(&ClientId::parse(client)?)),
            (_, None) => None,
        }
    }

    async fn send_report(&self, subject: &str) {
        // While disconnected the library would keep the message, and the client would get it long after it was true.
        if !self.engine.broker.is_connected() {
            return;
        }
        let Some(report) = self.progress.get(inquiry::now(&self.engine)) else { return };
        let told = Told { progress: Progress { id: self.request.id.as_str(), report } };
        let Ok(told) = serde_json::to_vec(&told) else { return };
        if let Err(error) = self.engine.broker.client().publish(subject.to_owned(), told.into()).await {
            tracing::debug!(request.id = %self.request.id, %error, "a report was not sent");
        }
    }
}
