//! The AsyncAPI 3 document of a deployment: what workers and services exchange over NATS, from the route table and the
//! namespaces. Clients are not in it: they speak the Centrifuge protocol.
//!
//! Pure, but for reading the schemas of routes (`schema`).

pub use self::schema::Schemas;

mod schema;

use serde_json::{Map, Value, json};
use tidegate_shared::{
    config::{Config, Match, Route},
    header,
    route::Word,
    subject::Subjects,
};

/// The version of AsyncAPI.
const ASYNCAPI: &str = "3.0.0";

/// Returns the document of a configuration with the schemas of its routes.
pub fn document(config: &Config, version: &str, schemas: &Schemas) -> Value {
    let subjects = config.subjects();
    let (mut channels, mut operations) = (Map::new(), Map::new());
    channels.insert("answer".to_owned(), answers(&subjects, config, schemas));
    for route in &config.routes {
        let id = format!("request.{}", route.name);
        let Some(channel) = requests(&subjects, route, schemas) else { continue };
        channels.insert(id.clone(), channel);
        operations.insert(format!("handle.{}", route.name), handling(&id, route, schemas));
    }
    for namespace in config.all_namespaces() {
        let (address, id) =
            (subjects.all_channels(&namespace.name).0, format!("publication.{}", namespace.name));
        channels.insert(
            id.clone(),
            json!({
                "address": address.replace('*', "{channel}"),
                "description": format!("Publications in the channels of the namespace {:?}.", namespace.name),
                "parameters": { "channel": { "description": "The channel's name behind the colon, encoded as one token." } },
                "messages": { "publication": { "$ref": "#/components/messages/publication" } },
            }),
        );
        operations.insert(format!("publish.{}", namespace.name), publishing(&id));
    }
    json!({
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "Tidegate", "version": version,
            "description": "What workers and services exchange with gateways over NATS JetStream. The rules of the exchange are those of the worker contract, version 1.",
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": servers(&config.nats.url),
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": all_messages(config, schemas), "schemas": schemas.components(),
            "securitySchemes": { "user": { "type": "userPassword" } },
        },
    })
}

fn servers(urls: &str) -> Value {
    let server = |(number, url): (usize, &str)| {
        let (protocol, host) = url.split_once("://").unwrap_or(("nats", url));
        let security = json!([{ "$ref": "#/components/securitySchemes/user" }]);
        (format!("nats{}", number + 1), json!({ "host": host, "protocol": protocol, "security": security }))
    };
    Value::Object(urls.split(',').map(str::trim).enumerate().map(server).collect())
}

/// The channel of a route's requests; `None` for a hook, which is asked without a stream.
fn requests(subjects: &Subjects, route: &Route, schemas: &Schemas) -> Option<Value> {
    let filter = route.matches.filter(subjects, "in")?;
    let mut named = match &route.matches {
        Match::Rpc(pattern) => pattern.words().iter().filter_map(any).collect(),
        Match::Publish(_) => vec!["channel".to_owned()],
        Match::Send | Match::Hook(_) => Vec::new(),
    };
    named.extend(["_part", "_origin", "_request"].map(str::to_owned));
    let (mut names, mut parameters) = (named.into_iter(), Map::new());
    let mut name = |token: &str| {
        let (name, description) = match token {
            "*" => (names.next().unwrap_or_else(|| "_word".to_owned()), "One token."),
            ">" => ("_rest".to_owned(), "One token or more."),
            _ => return token.to_owned(),
        };
        parameters.insert(name.clone(), json!({ "description": description }));
        format!("{{{name}}}")
    };
    let address = filter.split('.').map(&mut name).collect::<Vec<_>>().join(".");
    Some(json!({
        "address": address,
        "title": route.name,
        "description": format!("The requests of the route {:?}, which takes {}. They are in the stream {}.",
            route.name, route.matches, tidegate_shared::topology::request_stream(&route.name)),
        "parameters": parameters,
        "messages": { "request": { "$ref": format!("#/components/messages/{}", message("request", route, schemas)) } },
    }))
}

fn any(word: &Word) -> Option<String> {
    match word {
        Word::Any(name) => Some(name.clone()),
        Word::Literal(_) => None,
    }
}

/// The name of the message of this kind that a route has: one of its own if it has a schema for it.
fn message(kind: &str, route: &Route, schemas: &Schemas) -> String {
    let own = format!("{kind}.{}", route.name);
    if schemas.has(&own) { own } else { kind.to_owned() }
}

fn answers(subjects: &Subjects, config: &Config, schemas: &Schemas) -> Value {
    let names = config.routes.iter().map(|route| message("answer", route, schemas));
    let reference = |name: String| {
        let reference = json!({ "$ref": format!("#/components/messages/{name}") });
        (name, reference)
    };
    let messages: Map<_, _> = names.chain(["answer".to_owned()]).map(reference).collect();
    json!({
        "address": subjects.all_replies().replacen('*', "{_origin}", 1).replacen('*', "{_request}", 1),
        "description": "The stored answers, by the request's id: the first one counts. A plain request is answered as a request on the same tokens behind `answer`.",
        "parameters": {
            "_origin": { "description": "The first token of Tide-Id." },
            "_request": { "description": "The second token of Tide-Id." },
        },
        "messages": messages,
    })
}

fn handling(channel: &str, route: &Route, schemas: &Schemas) -> Value {
    let mut operation = json!({
        "action": "receive",
        "channel": { "$ref": format!("#/channels/{channel}") },
        "summary": format!("A worker handles a request of {:?}.", route.name),
        "messages": [{ "$ref": format!("#/channels/{channel}/messages/request") }],
    });
    if let (Match::Rpc(_), Some(operation)) = (&route.matches, operation.as_object_mut()) {
        operation.insert(
            "reply".to_owned(),
            json!({
                "channel": { "$ref": "#/channels/answer" },
                "messages": [{ "$ref": format!("#/channels/answer/messages/{}", message("answer", route, schemas)) }],
            }),
        );
    }
    operation
}

fn publishing(channel: &str) -> Value {
    json!({
        "action": "send",
        "channel": { "$ref": format!("#/channels/{channel}") },
        "messages": [{ "$ref": format!("#/channels/{channel}/messages/publication") }],
    })
}

/// The schema of headers: those that are always there, and others.
fn headers(always: &[&str], others: &[&str]) -> Value {
    let text = |name: &&str| ((*name).to_owned(), json!({ "type": "string" }));
    let properties: Map<_, _> = always.iter().chain(others).map(text).collect();
    json!({ "type": "object", "required": always, "properties": properties })
}

/// The messages of all kinds, and those of routes whose payload has a schema.
fn all_messages(config: &Config, schemas: &Schemas) -> Value {
    let mut all = messages();
    for route in &config.routes {
        for kind in ["request", "answer"] {
            let name = message(kind, route, schemas);
            if name != kind
                && let Some(mut own) = all.get(kind).and_then(Value::as_object).cloned()
                && let Some(all) = all.as_object_mut()
            {
                let payload = json!({ "$ref": format!("#/components/schemas/{name}") });
                own.insert("payload".to_owned(), payload);
                all.insert(name, own.into());
            }
        }
    }
    all
}

fn messages() -> Value {
    let any = json!({ "description": "What the client sent or gets: any bytes, mostly JSON." });
    json!({
        "request": {
            "payload": any,
            "headers": headers(&[header::ID, header::ROUTE], &[
                header::USER, header::CLIENT, header::METHOD, header::CHANNEL, header::KEY, header::ATTEMPT, header::LATER,
                header::DIGEST, header::ACCEPTED_AT, header::CONTENT_TYPE, header::SCHEDULE_NAME,
            ]),
            "correlationId": { "location": format!("$message.header#/{}", header::ID) },
        },
        "answer": {
            "payload": any,
            "headers": headers(&[header::RE, header::STATUS], &[header::CODE, header::MESSAGE, header::DIGEST, header::ATTEMPT]),
            "correlationId": { "location": format!("$message.header#/{}", header::RE) },
        },
        "publication": { "payload": any, "headers": headers(&[], &[header::MSG_ID, header::USER, header::CLIENT, header::INFO]) },
    })
}
