//! `tidegate-worker test` on a configuration with tests of its own.

use std::process::Command;

/// Routes with every kind of stock handler that a test can try.
const ROUTES: &str = r#"
[[route]]
name = "orders"
match = "rpc.orders.{order}.place"
handler = "webhook"
[route.webhook]
url = "https://shop.example.com/orders/{param.order}?by={user}"
secrets = ["env:NO_SUCH_SECRET"]

[[route]]
name = "notes"
match = "rpc.notes.add"
handler = "sql"
[route.sql]
url = "env:NO_SUCH_DATABASE"
migrations = "migrations"
statements = ["INSERT INTO notes (id, author, text) VALUES (:id, :user, :body.text) RETURNING author, text"]
answer = "row"

[[route]]
name = "rooms"
match = "pub.chat"
handler = "room"

[[namespace]]
name = "chat"
publish = "worker"

[[route]]
name = "invoice"
match = "rpc.invoice"
handler = "forward"
[route.forward]
subject = "billing.invoice"
"#;

const PASSING: &str = r#"
[[test]]
name = "an order reaches the shop"
method = "orders.7.place"
user = "42"
body = '{"sku": "a"}'
[[test.receiver]]
method = "POST"
path = "/orders/7?by=42"
body = '{ "sku" : "a" }'
headers = { tide-user = "42" }
response = '{"answer": {"id": 7}, "publications": [{"channel": "chat:orders", "data": "sold"}]}'
response_headers = { content-type = "application/tidegate+json" }
[test.expect]
answer = '{"id":7}'
publications = [{ channel = "chat:orders", data = '"sold"' }]

[[test]]
name = "a shop that is overloaded is asked again"
method = "orders.7.place"
user = "42"
[[test.receiver]]
status = 500
response = "no"
[test.expect]
retry = "answered 500"

[[test]]
name = "a shop that asks for silence gets it"
method = "orders.7.place"
user = "42"
[[test.receiver]]
status = 503
response_headers = { retry-after = "7" }
[test.expect]
snooze = "7s"

[[test]]
name = "an unknown article is the caller's error"
method = "orders.7.place"
user = "42"
[[test.receiver]]
status = 404
response = '{"message": "no such article"}'
[test.expect]
error = 404
message = "no such article"

[[test]]
name = "a note is stored with its author"
method = "notes.add"
user = "42"
body = '{"text": "milk"}'
database = "sqlite"
before = ["INSERT INTO notes (id, author, text) VALUES ('0', '1', 'old')"]
[test.expect]
answer = '{"author": "42", "text": "milk"}'
query = "SELECT author FROM notes ORDER BY author"
rows = '[{"author": "1"}, {"author": "42"}]'

[[test]]
name = "what a client says is published in its room"
channel = "chat:lobby"
user = "42"
body = '"hi"'
[test.expect]
publications = [{ channel = "chat:lobby", data = '"hi"' }]
"#;

const FAILING: &str = r#"
[[test]]
name = "the shop gets another article"
method = "orders.7.place"
user = "42"
body = '{"sku": "a"}'
[[test.receiver]]
path = "/orders/8?by=42"
body = '{"sku": "b"}'
response = '{"id": 7}'
[[test.receiver]]
[test.expect]
answer = '{"id": 8}'

[[test]]
name = "the shop refuses"
method = "orders.7.place"
user = "42"
[[test.receiver]]
status = 404
response = '{"message": "no"}'
[test.expect]
answer = '{"id": 7}'
"#;

/// Runs the command on a configuration, and returns its exit code, what it printed, and its errors.
fn run(tests: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tidegate.toml"), format!("{ROUTES}{tests}")).unwrap();
    std::fs::create_dir(dir.path().join("migrations")).unwrap();
    let table = "CREATE TABLE notes (id TEXT PRIMARY KEY, author TEXT, text TEXT NOT NULL)";
    std::fs::write(dir.path().join("migrations/1.sql"), table).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-worker"))
        .arg("test")
        .args(arguments)
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn tests_of_every_handler_pass_without_nats_and_without_secrets() {
    let (code, printed, errors) = run(PASSING, &[]);
    assert_eq!(code, Some(0), "{printed}{errors}");
    assert!(printed.contains("ok    an order reaches the shop\n"), "{printed}");
    assert!(printed.ends_with("6 passed, 0 failed, 0 skipped\n"), "{printed}");
    let (code, printed, _) = run(PASSING, &["note"]);
    assert_eq!((code, printed.lines().count()), (Some(0), 2), "{printed}");
}

#[test]
fn a_failed_test_says_what_differs_and_where() {
    let (code, printed, _) = run(FAILING, &[]);
    assert_eq!(code, Some(1), "{printed}");
    for part in [
        "FAIL  the shop gets another article\n      receiver, call 1, path:\n        expected \"/orders/8?by=42\"\n        \
         found    \"/orders/7?by=42\"\n",
        "      receiver, call 1, body/sku:\n        expected \"b\"\n        found    \"a\"\n",
        "      receiver, call 2:\n        expected a call of any path\n        found    none\n",
        "      answer/id:\n        expected 8\n        found    7\n",
        "FAIL  the shop refuses\n      outcome:\n        expected an answer\n        found    error 404: no\n",
        "0 passed, 2 failed, 0 skipped\n",
    ] {
        assert!(printed.contains(part), "{part}\n---\n{printed}");
    }
}

#[test]
fn a_test_that_cannot_be_tried_is_skipped_or_refused_with_its_name() {
    let (code, printed, _) =
        run("[[test]]\nname = \"a bill\"\nmethod = \"invoice\"\n[test.expect]\nanswer = \"1\"\n", &[]);
    assert_eq!(code, Some(0));
    assert!(printed.starts_with("skip  a bill: its service is behind NATS"), "{printed}");
    let note = |database: &str| {
        let test = "name = \"a note\"\nmethod = \"notes.add\"\n[test.expect]\nanswer = \"1\"\n";
        run(&format!("[[test]]\n{database}{test}"), &[])
    };
    for (database, why) in [
        ("", "its database is not known, because secrets are not read"),
        ("database = \"postgres\"\n", "its database is PostgreSQL"),
    ] {
        let (code, printed, errors) = note(database);
        assert_eq!(code, Some(0), "{printed}{errors}");
        assert!(printed.starts_with(&format!("skip  a note: {why}")), "{printed}");
    }
    for (tests, says) in [
        ("", "the configuration has no [[test]]"),
        (
            "[[test]]\nname = \"x\"\nmethod = \"nothing\"\n[test.expect]\n",
            "[[test]] \"x\": no [[route]] takes it",
        ),
        (
            "[[test]]\nname = \"x\"\nmethod = \"invoice\"\n[test.expect]\nanser = \"1\"\n",
            "did you mean `answer`?",
        ),
        (
            "[[test]]\nname = \"x\"\nmethod = \"notes.add\"\ndatabase = \"sqlite\"\nbefore = [\"INSERT\"]\n[test.expect]\n",
            "[[test]] \"x\": before: INSERT: ",
        ),
    ] {
        let (code, _, errors) = run(tests, &[]);
        assert_eq!(code, Some(64), "{errors}");
        assert!(errors.contains(says), "{errors}");
    }
}
