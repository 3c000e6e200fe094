//! Asking the gateways as a service or an operator does: the server API over NATS.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use serde_json::Value;
use tidegate_cli::output;
use tidegate_shared::{
    broker::Broker,
    config::{Config, NatsUser, Role},
    protocol::Error,
    subject::Subjects,
};

use crate::command::ConfigArgs;

/// How long the connection to NATS may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a gateway may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Connects to NATS as a service.
pub(crate) async fn connect(config: &Config) -> anyhow::Result<Broker> {
    connect_as(config, &config.nats.service).await
}

async fn connect_as(config: &Config, user: &NatsUser) -> anyhow::Result<Broker> {
    let connecting = Broker::connect(&config.nats, user, "tidegate", 1, true);
    let Ok(broker) = tokio::time::timeout(PATIENCE, connecting).await else {
        bail!("no NATS at {} (`make up` starts one): start it, or check nats.url", config.nats.url);
    };
    Ok(broker?.past_streams(config, false))
}

/// A connection that calls methods of the server API.
#[derive(Debug)]
pub(crate) struct Caller {
    broker: Broker,
    subjects: Subjects,
}

impl Caller {
    /// Connects as a service, which may call the methods for services.
    pub(crate) async fn service(config: &ConfigArgs) -> anyhow::Result<Self> {
        let config = config.load(Role::Service)?;
        Ok(Self { broker: connect(&config).await?, subjects: config.subjects() })
    }

    /// Connects as an operator, who may call the methods for operators.
    pub(crate) async fn operator(config: &ConfigArgs) -> anyhow::Result<Self> {
        let config = config.load(Role::Operator)?;
        Ok(Self { broker: connect_as(&config, &config.nats.ops).await?, subjects: config.subjects() })
    }

    /// Calls a method. The result, or the error of the gateway. Parameters that are null are left out.
    pub(crate) async fn call(&self, method: &str, params: Value) -> anyhow::Result<Result<Value, Error>> {
        let params = given(params).to_string();
        let request = async_nats::Request::new().payload(params.into()).timeout(Some(ANSWER));
        let answer = self.broker.client().send_request(self.subjects.control(method), request).await;
        let answer = answer.context("no gateway answers (is one running? `make up` starts one)")?;
        let mut answer: Value = serde_json::from_slice(&answer.payload).context("the gateway's answer")?;
        match answer.get_mut("error").map(Value::take) {
            Some(error) => Ok(Err(serde_json::from_value(error).context("the gateway's error")?)),
            None => Ok(Ok(answer.get_mut("result").map(Value::take).unwrap_or_default())),
        }
    }
}

/// Calls a method as a service.
pub(crate) async fn ask(
    config: &ConfigArgs,
    method: &str,
    params: Value,
) -> anyhow::Result<Result<Value, Error>> {
    Caller::service(config).await?.call(method, params).await
}

/// Prints a result as JSON, or the error. Parameters that were not given are left out of `params`.
pub(crate) async fn print(config: &ConfigArgs, method: &str, params: Value) -> anyhow::Result<ExitCode> {
    match ask(config, method, params).await? {
        Ok(result) => {
            output::line(result.to_string());
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            output::note(format!("error {}: {}", error.code, error.message));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Without the fields that are null.
fn given(mut params: Value) -> Value {
    if let Some(fields) = params.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    params
}
