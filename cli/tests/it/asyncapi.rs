//! The AsyncAPI document of configurations is valid by the published schema.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use tidegate_cli::asyncapi::{self, Schemas};
use tidegate_shared::config::Config;

use crate::conformance::language::{copy, fetched, root, run, text};

/// What the validator says about a document, and whether that is good.
fn validated(document: &serde_json::Value) -> (bool, String) {
    let source = root().join("cli/tests/asyncapi");
    let dir = fetched("asyncapi", &source, "package-lock.json", |source, into| {
        copy(source, into, &["package.json", "package-lock.json", ".npmrc"]);
        run("npm", &["ci", "--ignore-scripts"], into);
    });
    copy(&source, &dir, &["validate.js"]);
    let mut node = Command::new("node")
        .arg(text(&dir.join("validate.js")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin.take().unwrap().write_all(document.to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

fn document(toml: &str) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidegate.toml");
    fs::write(&file, toml).unwrap();
    let config = Config::load(Some(Path::new(&file)), &[]).unwrap();
    asyncapi::document(&config, "0.1.0", &Schemas::read(&config).unwrap())
}

#[test]
fn the_document_of_every_kind_of_route_is_valid() {
    let document = document(
        "[nats]\nurl = \"nats://one:4222,nats://two:4222\"\n\
        [[route]]\nname = \"place\"\nmatch = \"rpc.orders.{order}.place\"\n\
        [[route]]\nname = \"files\"\nmatch = \"rpc.files.{folder}.>\"\n[[route]]\nname = \"inbox\"\nmatch = \"send\"\n\
        [[namespace]]\nname = \"chat\"\npublish = \"worker\"\n[[route]]\nname = \"chat\"\nmatch = \"pub.chat\"\n\
        [[route]]\nname = \"door\"\nmatch = \"hook.connect\"\n",
    );
    let (valid, faults) = validated(&document);
    assert!(valid, "{faults}\n{document:#}");
    let address = &document["channels"]["request.place"]["address"];
    assert_eq!(address, "tide.in.rpc.orders.{order}.place.{_part}.{_origin}.{_request}");
    assert_eq!(document["servers"]["nats1"]["host"], "one:4222");
    assert!(document["channels"].get("request.door").is_none(), "a hook has no stream");
}

#[test]
fn a_route_with_schemas_has_messages_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("order.json");
    fs::write(&file, r##"{"type": "object", "properties": {"sku": {"$ref": "#/definitions/sku"}}, "definitions": {"sku": {"type": "string"}}}"##)
        .unwrap();
    let document = document(&format!(
        "[[route]]\nname = \"place\"\nmatch = \"rpc.place\"\nschema = \"{}\"\nanswer_schema = {{ type = \"integer\" }}\n\
         [[route]]\nname = \"plain\"\nmatch = \"rpc.plain\"\n",
        file.display()
    ));
    let (valid, faults) = validated(&document);
    assert!(valid, "{faults}\n{document:#}");
    let at = |pointer: &str| document.pointer(pointer).unwrap().clone();
    assert_eq!(at("/channels/request.place/messages/request/$ref"), "#/components/messages/request.place");
    assert_eq!(at("/components/messages/request.place/payload/$ref"), "#/components/schemas/request.place");
    let sku = at("/components/schemas/request.place/properties/sku/$ref");
    assert_eq!(sku, "#/components/schemas/request.place/definitions/sku");
    let answers = at("/operations/handle.place/reply/messages/0/$ref");
    assert_eq!(answers, "#/channels/answer/messages/answer.place");
    assert_eq!(at("/operations/handle.plain/reply/messages/0/$ref"), "#/channels/answer/messages/answer");
}

#[test]
fn a_schema_that_is_none_is_refused_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidegate.toml");
    for (schema, says) in [
        ("{ type = \"text\" }", "`route.0.schema` (route \"place\"): the schema has the type \"text\""),
        ("\"no/such/file.json\"", "`route.0.schema` (route \"place\"): reading no/such/file.json"),
    ] {
        fs::write(&file, format!("[[route]]\nname = \"place\"\nmatch = \"rpc.place\"\nschema = {schema}\n"))
            .unwrap();
        let error = Schemas::read(&Config::load(Some(&file), &[]).unwrap()).unwrap_err();
        assert!(format!("{error:#}").contains(says), "{error:#}");
    }
}

#[test]
fn the_validator_finds_faults() {
    let mut broken = document("[[route]]\nname = \"place\"\nmatch = \"rpc.place\"\n");
    broken["operations"]["handle.place"]["action"] = "listen".into();
    broken["channels"]["request.place"]["messages"]["request"]["$ref"] = "#/components/messages/none".into();
    let (valid, faults) = validated(&broken);
    assert!(
        !valid && faults.contains("/operations/handle.place/action") && faults.contains("leads nowhere"),
        "{faults}"
    );
}
