//! What configuration says about itself when it is wrong.

use super::*;

#[expect(clippy::unwrap_in_result, reason = "the result is what is tested, the files around it are not")]
fn load(toml: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let file = std::env::temp_dir().join(format!("tidegate-{}.toml", crate::id::random_token::<8>()));
    std::fs::write(&file, toml).unwrap();
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let config = Config::from_sources(Some(&file), variables, &[]).map_err(|error| error.to_string());
    std::fs::remove_file(&file).unwrap();
    config
}

fn refusal(toml: &str, variables: &[(&str, &str)]) -> String {
    load(toml, variables).expect_err("refused")
}

#[test]
fn the_default_file_is_a_configuration() {
    let config = Config::from_sources(None, BTreeMap::new(), &[]).unwrap();
    assert_eq!(config.gateway.listen.port(), 8000);
    assert_eq!(config.gateway.limits.message, 64 * 1024);
    assert_eq!(config.all_namespaces().len(), 2);
}

#[test]
fn the_commented_tables_of_the_default_file_are_valid_and_complete() {
    let tables = DEFAULT_TOML.split("# [[namespace]]").nth(1).unwrap();
    let tables: String = tables.lines().map(|line| line.trim_start_matches('#').to_owned() + "\n").collect();
    let tables: String = tables
        .lines()
        .filter(|line| line.contains('=') || line.contains("[["))
        .map(|l| l.to_owned() + "\n")
        .collect();
    let config = load(&format!("[[namespace]]\n{tables}"), &[]).unwrap();
    assert_eq!(config.namespaces.first().unwrap().name, "chat");
    let route = config.routes.first().unwrap();
    assert_eq!(route.matches.to_string(), "rpc.orders.{id}.place");
    let plain =
        load("[[route]]\nname = 'orders'\nmatch = 'rpc.orders.{id}.place'\nhandler = 'echo'\n", &[]).unwrap();
    assert_eq!(
        format!("{route:?}"),
        format!("{:?}", plain.routes.first().unwrap()),
        "documented defaults are the defaults"
    );
}

#[test]
fn later_sources_win() {
    let config = load(
        "[gateway]\nlisten = '127.0.0.1:1'\nanswer_timeout = '1s'",
        &[("TIDEGATE_GATEWAY__LISTEN", "127.0.0.1:2")],
    )
    .unwrap();
    assert_eq!(config.gateway.listen.port(), 2);
    assert_eq!(config.gateway.answer_timeout, Duration::from_secs(1));
    let flagged =
        Config::from_sources(None, BTreeMap::new(), &[("gateway.listen", "127.0.0.1:3".to_owned())]).unwrap();
    assert_eq!(flagged.gateway.listen.port(), 3);
}

#[test]
fn a_secret_can_come_from_a_file_and_is_never_shown() {
    let file = std::env::temp_dir().join(format!("tidegate-{}.secret", crate::id::random_token::<8>()));
    std::fs::write(&file, "from-a-file\n").unwrap();
    let config = load("", &[("TIDEGATE_NATS__GATEWAY__PASSWORD_FILE", file.to_str().unwrap())]).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(config.nats.gateway.password.expose(), "from-a-file");
    assert!(!format!("{config:?}").contains("from-a-file"));
    let error = refusal("", &[("TIDEGATE_NATS__GATEWAY__PASSWORD_FILE", "/nonexistent/secret")]);
    assert!(
        error.contains("TIDEGATE_NATS__GATEWAY__PASSWORD_FILE") && error.contains("/nonexistent/secret"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_source_and_a_suggestion() {
    let error = refusal("[gateway]\nlistn = '127.0.0.1:1'", &[]);
    assert!(
        error.contains("gateway.listn") && error.contains(".toml") && error.contains("`listen`"),
        "{error}"
    );
    let error = refusal("", &[("TIDEGATE_GATEWAY__ANSWER_TIMEOT", "1s")]);
    assert!(
        error.contains("TIDEGATE_GATEWAY__ANSWER_TIMEOT") && error.contains("`answer_timeout`"),
        "{error}"
    );
}

#[test]
fn a_wrong_type_is_named_with_its_key_and_source() {
    let error = refusal("[gateway]\nanswer_timeout = 4", &[]);
    assert!(error.contains("gateway.answer_timeout") && error.contains(".toml"), "{error}");
    let error = refusal("", &[("TIDEGATE_GATEWAY__LIMITS__CHANNELS", "many")]);
    assert!(
        error.contains("gateway.limits.channels") && error.contains("TIDEGATE_GATEWAY__LIMITS__CHANNELS"),
        "{error}"
    );
    let error = refusal("[gateway]\nanswer_timeout = 'soon'", &[]);
    assert!(error.contains("soon") && error.contains("30s"), "{error}");
}

#[test]
fn production_refuses_what_everybody_knows() {
    let own: Vec<(String, String)> = [
        "AUTH__HMAC_SECRET",
        "NATS__GATEWAY__PASSWORD",
        "NATS__WORKER__PASSWORD",
        "NATS__SERVICE__PASSWORD",
        "NATS__SETUP__PASSWORD",
    ]
    .map(|key| (format!("TIDEGATE_{key}"), "x".repeat(32)))
    .to_vec();
    let own: Vec<(&str, &str)> = own.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert!(load("env = 'production'", &own).is_ok());
    for (index, (missing, _)) in own.iter().enumerate() {
        let mut others = own.clone();
        others.remove(index);
        let error = refusal("env = 'production'", &others);
        assert!(error.contains(missing), "{missing}: {error}");
    }
    assert!(refusal("env = 'production'\n[gateway]\norigins = ['*']", &own).contains("gateway.origins"));
}

#[test]
fn development_stays_on_loopback() {
    assert!(refusal("[gateway]\nlisten = '0.0.0.0:8000'", &[]).contains("gateway.listen"));
}

#[test]
fn routes_may_not_share_requests_or_names() {
    let route = |name: &str, matches: &str| format!("[[route]]\nname = '{name}'\nmatch = '{matches}'\n");
    let error = refusal(&(route("a", "rpc.orders.{x}") + &route("b", "rpc.orders.new")), &[]);
    assert!(error.contains("route.1.match") && error.contains("rpc.orders.{x}"), "{error}");
    assert!(refusal(&(route("a", "rpc.x") + &route("a", "rpc.y")), &[]).contains("declared twice"));
    assert!(refusal(&route("a", "orders"), &[]).contains("rpc.<method>"));
    assert!(refusal(&route("a.b", "rpc.x"), &[]).contains("route.0.name"));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::from_sources(Some(Path::new("/nonexistent/tidegate.toml")), BTreeMap::new(), &[])
        .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/tidegate.toml"));
}
