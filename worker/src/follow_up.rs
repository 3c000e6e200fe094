//! Follow-ups: requests that a handler makes, for any route. They are stored before the answer is.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use tidegate_shared::{
    enqueue::{self, Due, Origin, Refused},
    envelope::{BYTES, JSON, Request},
    header,
    id::RequestId,
    route::Priority,
};

use crate::failure::NotJson;

/// A request that a handler makes, such as the next step of the work. It has the same streams, retries and dead letters as a request
/// of a client; see `enqueue` in docs/jobs.md.
///
/// Each follow-up of an attempt has a name, from which its id is made. A repeated attempt gives the follow-up of the same name the
/// same id, so that it is stored once and runs to its answer once. The usual name is made of where it goes and the number of
/// follow-ups before it that go there. Where that may change between attempts, give names with [`Self::named`].
///
/// ```
/// use std::time::Duration;
/// use tidegate_worker::{FollowUp, To};
///
/// let ship = FollowUp::json("orders.ship", &7)?.named("ship").after(Duration::from_secs(60));
/// let mail = FollowUp::json(To::Route("mail".to_owned()), &"shipped")?.nobody();
/// # Ok::<(), tidegate_worker::NotJson>(())
/// ```
///
/// What is wrong with a follow-up (no route takes it, its time is more than ten years ahead, it is too large for the broker) would be
/// wrong on every attempt: the request becomes a dead letter at once, with this as its reason. While the stream of its route is
/// full, the request that makes it is snoozed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowUp {
    /// Which work.
    pub to: To,
    /// The payload as its handler gets it.
    pub data: Bytes,
    /// The media type of the payload.
    pub content_type: &'static str,
    /// The user it acts for.
    pub user: ActsFor,
    /// An idempotency key: the same user, method and key is one request with one answer, whoever makes it.
    pub key: Option<String>,
    /// When it may be worked on.
    pub due: Due,
    /// Its lane. `None` for that of its route.
    pub priority: Option<Priority>,
    /// Whether its answer is kept from the personal channel of its user.
    pub silent: bool,
    /// Tells it apart from the other follow-ups of the attempt. `None` for the usual name.
    pub name: Option<String>,
}

/// Where a follow-up goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// To the route that takes this method.
    Method(String),
    /// To the route of this name, which takes one method only, or is the route of `send`.
    Route(String),
}

/// The user that a follow-up acts for. Its answer comes to the personal channel of that user, unless it is silent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ActsFor {
    /// The user of the request that makes it.
    #[default]
    SameUser,
    /// No user: its answer is stored alone.
    Nobody,
    /// This user.
    User(String),
}

/// Follow-ups that go with an answer. A handler returns them beside it:
///
/// ```
/// use tidegate_worker::{Failure, FollowUp, FollowUps, Json};
///
/// async fn place(Json(parcels): Json<Vec<u32>>) -> Result<(Json<bool>, FollowUps), Failure> {
///     let ship = |parcel: &u32| FollowUp::json("orders.ship", parcel);
///     Ok((Json(true), parcels.iter().map(ship).collect::<Result<_, _>>()?))
/// }
/// # tidegate_worker::Router::new().route("place", tidegate_worker::on(place));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FollowUps(pub Vec<FollowUp>);

impl FollowUp {
    /// A follow-up with a JSON payload. Fails when `data` cannot be written as JSON.
    pub fn json(to: impl Into<To>, data: &impl Serialize) -> Result<Self, NotJson> {
        Ok(Self { content_type: JSON, ..Self::bytes(to, serde_json::to_vec(data)?) })
    }

    /// A follow-up with any payload.
    pub fn bytes(to: impl Into<To>, data: impl Into<Bytes>) -> Self {
        Self {
            to: to.into(),
            data: data.into(),
            content_type: BYTES,
            user: ActsFor::SameUser,
            key: None,
            due: Due::Now,
            priority: None,
            silent: false,
            name: None,
        }
    }

    /// Acts for this user instead of the user of the request that makes it.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = ActsFor::User(user.into());
        self
    }

    /// Acts for no user.
    #[must_use]
    pub fn nobody(mut self) -> Self {
        self.user = ActsFor::Nobody;
        self
    }

    /// Sets an idempotency key of up to 128 bytes, from which the id is made instead of the name: the same user, method and key is
    /// one request, whichever requests make it. With a user it is the very one that the user would make with
    /// `rpc("<method>#<key>")`. If there is one already, that one stays; if that one has another body, the request that makes this
    /// follow-up becomes a dead letter. So every attempt has to make the same body.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Waits so long before it is worked on, by the broker's clock.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.due = if delay.is_zero() { Due::Now } else { Due::After(delay) };
        self
    }

    /// Waits until this time, by the broker's clock. A time that is over is now.
    #[must_use]
    pub fn at(mut self, time: SystemTime) -> Self {
        self.due = Due::At(time);
        self
    }

    /// Sets its lane, instead of that of its route.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Keeps its answer from the personal channel of its user: for a step that nobody outside waits for. The answer is stored all the
    /// same.
    #[must_use]
    pub fn silent(mut self) -> Self {
        self.silent = true;
        self
    }

    /// Gives it a name: 1 to 64 letters, digits, `_`, `-` and `.`. Any other name, or the name of another follow-up of the same
    /// attempt, makes the request a dead letter, with this as its reason.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The request that it becomes. `of` is the request that makes it, `name` its name among that one's follow-ups.
    pub(crate) fn request(
        &self,
        of: &Request,
        name: &str,
        book: &RouteBook<'_>,
        now: SystemTime,
    ) -> Result<Request, Refused> {
        let (method, route) = match &self.to {
            To::Method(method) => (method.as_str(), ""),
            To::Route(route) => ("", route.as_str()),
        };
        let (route, method) = enqueue::destination(book.routes, method, route)?;
        enqueue::check_due(self.due, now)?;
        let user = match &self.user {
            ActsFor::SameUser => of.user.clone(),
            ActsFor::Nobody => None,
            ActsFor::User(user) => Some(user.clone()),
        };
        let impossible =
            |user: &&String| user.is_empty() || user.len() > book.longest_user || !header::carries(user);
        if let Some(user) = user.as_ref().filter(impossible) {
            return Err(Refused::Wrong(format!("{:?} cannot be a user's id", header::text_within(user, 64))));
        }
        let id = match &self.key {
            Some(key) => enqueue::keyed_id(method.as_deref().unwrap_or(&route.name), user.as_deref(), key)?,
            None => RequestId::follow_up(&of.id, name),
        };
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let accepted_at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let origin = Origin { user, accepted_at, trace: of.trace.clone() };
        let request = Request::enqueued(id, route, method, origin, (self.content_type, self.data.clone()));
        let priority = self.priority.map_or(request.priority, |priority| route.lane(priority));
        Ok(Request { priority, later: !self.silent, ..request })
    }
}

/// What the configuration says about where requests may go.
#[derive(Debug)]
pub(crate) struct RouteBook<'a> {
    pub(crate) routes: &'a [tidegate_shared::config::Route],
    /// The most bytes of a user's id.
    pub(crate) longest_user: usize,
}

impl To {
    /// The method or the route, as the application wrote it.
    pub(crate) fn as_str(&self) -> &str {
        let (Self::Method(name) | Self::Route(name)) = self;
        name
    }
}

impl From<&str> for To {
    fn from(method: &str) -> Self {
        Self::Method(method.to_owned())
    }
}

impl From<String> for To {
    fn from(method: String) -> Self {
        Self::Method(method)
    }
}

impl FromIterator<FollowUp> for FollowUps {
    fn from_iter<I: IntoIterator<Item = FollowUp>>(follow_ups: I) -> Self {
        Self(follow_ups.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_shared::config::{Config, Role};

    use super::*;
    use crate::job::tests::job;

    fn config() -> Config {
        let routes = "[{name = \"ship\", match = \"rpc.orders.ship\"}, {name = \"news\", match = \"send\"}, \
             {name = \"line\", match = \"rpc.line\", order = \"strict\"}]";
        Config::from_sources_as(Role::Worker, None, BTreeMap::new(), &[("route", routes.to_owned())]).unwrap()
    }

    fn request(follow_up: &FollowUp, user: Option<&str>) -> Result<Request, Refused> {
        let config = config();
        let book = RouteBook { routes: &config.routes, longest_user: config.longest_user_id() };
        let mut of = job(user, b"1").request().clone();
        of.id = RequestId::parse("gw.1").unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(5);
        follow_up.request(&of, "ship", &book, now)
    }

    #[test]
    fn a_follow_up_acts_for_the_user_of_its_request_unless_it_says_otherwise() {
        let follow_up = FollowUp::json("orders.ship", &1).unwrap();
        let user = |follow_up: &FollowUp| request(follow_up, Some("42")).unwrap().user;
        assert_eq!(user(&follow_up).as_deref(), Some("42"));
        assert_eq!(user(&follow_up.clone().user("43")).as_deref(), Some("43"));
        assert_eq!(user(&follow_up.clone().nobody()), None);
        assert!(!request(&follow_up.clone().silent(), Some("42")).unwrap().later);
        let whole = request(&follow_up, Some("42")).unwrap();
        assert_eq!((whole.method.as_deref(), whole.route.as_str()), (Some("orders.ship"), "ship"));
        assert_eq!((whole.client, whole.later, whole.accepted_at), (None, true, 5));
        assert_eq!(whole.body, "1");
        let sent = FollowUp::bytes(To::Route("news".to_owned()), "x");
        assert_eq!(request(&sent, None).unwrap().method, None);
    }

    #[test]
    fn its_id_is_made_of_the_requests_id_and_its_name_or_of_its_key() {
        let follow_up = FollowUp::json("orders.ship", &1).unwrap();
        let id = |follow_up: &FollowUp| request(follow_up, Some("42")).unwrap().id;
        let of = RequestId::parse("gw.1").unwrap();
        assert_eq!(id(&follow_up), RequestId::follow_up(&of, "ship"));
        assert_eq!(id(&follow_up), id(&follow_up.clone().user("43")));
        assert_eq!(id(&follow_up.key("k")), RequestId::keyed("42", "orders.ship", "k"));
    }

    #[test]
    fn what_no_attempt_could_store_is_refused() {
        let ten_years = Duration::from_hours(24 * 3660);
        for (follow_up, why) in [
            (FollowUp::bytes("nobody", ""), "no route takes \"nobody\""),
            (FollowUp::bytes(To::Route("x".to_owned()), ""), "there is no route \"x\""),
            (FollowUp::bytes("orders.ship", "").after(ten_years), "ten years"),
            (FollowUp::bytes("orders.ship", "").key(""), "a key has 1 to 128 bytes"),
            (FollowUp::bytes("orders.ship", "").user(" a"), "cannot be a user's id"),
            (FollowUp::bytes("orders.ship", "").user("u".repeat(500)), "cannot be a user's id"),
        ] {
            let error = request(&follow_up, None).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let line = FollowUp::bytes("line", "").priority(Priority::High);
        assert_eq!(request(&line, None).unwrap().priority, Priority::Normal, "it has one lane");
    }
}
