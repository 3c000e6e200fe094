//! What configuration says about itself when it is wrong.

use std::{collections::BTreeMap, path::Path};

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
    let (tables, stock) = DEFAULT_TOML.split_once("# What the stock handlers need").unwrap();
    let tables = tables.split("# [[issuer]]").nth(1).unwrap();
    let tables: String = tables.lines().map(|line| line.trim_start_matches('#').to_owned() + "\n").collect();
    let tables: String = tables
        .lines()
        .filter(|line| line.contains(" = ") || line.trim_start().starts_with("[["))
        .map(|l| l.to_owned() + "\n")
        .collect();
    let config = load(&format!("[[issuer]]\n{tables}"), &[]).unwrap();
    assert_eq!(config.all_issuers().len(), 2);
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
    stock_tables(stock);
}

/// Every table of a stock handler: all its documented keys, and those that it needs alone.
fn stock_tables(text: &str) {
    let lines: Vec<_> = text.lines().map(|line| line.trim_start_matches(['#', ' '])).collect();
    let limit = "[[rate_limit]]\nname = 'shop'\nper_second = 50\n";
    let with = |handler: &str, keys: &[&str]| {
        let mut toml = format!(
            "{limit}[[route]]\nname = 'a'\nmatch = 'rpc.a.{{id}}'\nhandler = '{handler}'\n[route.{handler}]\n"
        );
        for key in keys {
            toml.push_str(key);
            toml.push('\n');
        }
        load(&toml, &[("SHOP_SECRET", "")]).map(|config| format!("{:?}", config.routes.first().unwrap()))
    };
    for (handler, needed) in
        [("webhook", &["url"][..]), ("sql", &["url", "statements"]), ("forward", &["subject"])]
    {
        let begin = lines.iter().position(|line| line.starts_with(&format!("[route.{handler}]"))).unwrap();
        let keys = lines.iter().skip(begin + 1).take_while(|line| !line.starts_with('[') && !line.is_empty());
        // What has no default: secrets of the environment, and keys that are left out.
        let optional = ["secrets", "headers", "body", "rate_limit", "migrations"];
        let name = |line: &str| line.split_once(" = ").map(|(name, _)| name.to_owned()).unwrap();
        let keys: Vec<&str> = keys.copied().filter(|line| !optional.contains(&name(line).as_str())).collect();
        let bare: Vec<&str> =
            keys.iter().copied().filter(|line| needed.contains(&name(line).as_str())).collect();
        assert_eq!(
            with(handler, &keys).unwrap(),
            with(handler, &bare).unwrap(),
            "documented defaults are the defaults"
        );
    }
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
        error.contains("TIDEGATE_GATEWAY__ANSWER_TIMEOT")
            && error.contains("TIDEGATE_GATEWAY__ANSWER_TIMEOUT?"),
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
fn production_refuses_the_public_default_secrets() {
    let own: Vec<(String, String)> = [
        "AUTH__HMAC_SECRET",
        "NATS__GATEWAY__PASSWORD",
        "NATS__WORKER__PASSWORD",
        "NATS__PURGER__PASSWORD",
        "NATS__SERVICE__PASSWORD",
        "NATS__SETUP__PASSWORD",
        "NATS__OPS__PASSWORD",
        "API__KEY",
        "AUTH__MAX_TOKEN_LIFE",
    ]
    .map(|key| (format!("TIDEGATE_{key}"), if key.ends_with("LIFE") { "24h".into() } else { "x".repeat(32) }))
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
    let closed: Vec<_> =
        own.iter().map(|(key, value)| (*key, if key.contains("API") { "" } else { *value })).collect();
    assert!(load("env = 'production'", &closed).is_ok(), "a door that is closed needs no key");
    for (length, accepted) in [(31, false), (32, true)] {
        let key = "k".repeat(length);
        let keyed: Vec<_> = own
            .iter()
            .map(|(name, value)| (*name, if name.contains("API") { &*key } else { *value }))
            .collect();
        let loaded = load("env = 'production'", &keyed);
        assert_eq!(loaded.is_ok(), accepted, "{length}");
        assert!(accepted || loaded.unwrap_err().contains("api.key"));
    }
}

#[test]
fn the_life_of_tokens_is_limited_to_a_year_at_most() {
    assert!(load("[auth]\nmax_token_life = '0s'", &[]).unwrap().auth.max_token_life.is_zero());
    assert!(load("[auth]\nmax_token_life = '8760h'", &[]).is_ok());
    for life in ["8761h", "500ms"] {
        assert!(refusal(&format!("[auth]\nmax_token_life = '{life}'"), &[]).contains("auth.max_token_life"));
    }
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
    assert!(load(&(route("a", "hook.connect") + &route("b", "hook.publish")), &[]).is_ok());
    assert!(
        refusal(&(route("a", "hook.connect") + &route("b", "hook.connect")), &[]).contains("route.1.match")
    );
    assert!(refusal(&route("a", "hook.more"), &[]).contains("sub_refresh"));
    assert!(refusal(&(route("a", "hook.connect") + "answer = 'later'"), &[]).contains("route.0.answer"));
}

#[test]
fn each_audience_key_accepts_only_its_own_values() {
    let namespace = |key: &str, word: &str| format!("[[namespace]]\nname = 'a'\n{key} = '{word}'\n");
    for (key, words) in [
        ("allow_subscribe", "nobody, authenticated, anyone, token, hook"),
        ("allow_publish", "nobody, authenticated, anyone, subscriber, hook"),
        ("allow_history", "nobody, authenticated, anyone, subscriber"),
        ("allow_presence", "nobody, authenticated, anyone, subscriber"),
    ] {
        for word in ["nobody", "authenticated", "anyone", "subscriber", "token", "hook"] {
            let loaded = load(&namespace(key, word), &[]);
            if words.contains(word) {
                assert!(loaded.is_ok(), "{key} = {word}");
            } else {
                let error = loaded.unwrap_err();
                let named = error.contains(&format!("namespace.0.{key}")) && error.contains(".toml");
                assert!(named && error.contains(words), "{error}");
            }
        }
    }
    assert!(refusal(&namespace("allow_publish", "everybody"), &[]).contains("namespace.0.allow_publish"));
    assert!(refusal("[hooks]\ndeadline = '6s'", &[]).contains("hooks.deadline"));
    assert!(refusal("[hooks]\ncache = '2h'", &[]).contains("hooks.cache"));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::from_sources(Some(Path::new("/nonexistent/tidegate.toml")), BTreeMap::new(), &[])
        .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/tidegate.toml"));
}

const ISSUER: &str = "[[issuer]]\nname = 'a'\nissuer = 'https://a'\n";

#[test]
fn an_issuer_has_one_source_of_keys_and_algorithms_that_go_with_it() {
    for (toml, key, word) in [
        ("algorithms = ['RS256']", "jwks_url", "one of"),
        ("algorithms = ['HS256']\nhmac_secret = 's'\njwks_url = 'https://a/'", "jwks_url", "not several"),
        ("algorithms = ['RS256', 'HS256']\npublic_key = 'x'", "algorithms", "HS256"),
        ("algorithms = ['HS256', 'RS256']\nhmac_secret = 's'", "algorithms", "RS256"),
        ("algorithms = []\npublic_key = 'x'", "algorithms", "at least one"),
        ("algorithms = ['HS256']\nhmac_secret = ''", "hmac_secret", "empty"),
        ("algorithms = ['RS256']\njwks_url = 'http://a.example.com/'", "jwks_url", "https"),
        (
            "algorithms = ['RS256']\npublic_key_file = '/nonexistent/key'",
            "public_key_file",
            "/nonexistent/key",
        ),
        ("algorithms = ['RS256']\npublic_key = 'x'\npublic_key_file = '/k'", "public_key_file", "not both"),
    ] {
        let error = refusal(&format!("{ISSUER}{toml}"), &[]);
        assert!(error.contains(&format!("issuer.0.{key}")) && error.contains(word), "{toml}: {error}");
    }
    for algorithm in ["none", "rs256", "PS256"] {
        let error = refusal(&format!("{ISSUER}algorithms = ['{algorithm}']\npublic_key = 'x'"), &[]);
        assert!(error.contains("issuer.0.algorithms") && error.contains("EdDSA"), "{error}");
    }
}

#[test]
fn issuers_have_distinct_names_and_iss_values() {
    let issuer = |name: &str, iss: &str| {
        format!("[[issuer]]\nname = '{name}'\nissuer = '{iss}'\nalgorithms = ['HS256']\nhmac_secret = 's'\n")
    };
    assert!(load(&(issuer("a", "x") + &issuer("b", "y")), &[]).is_ok());
    let error = refusal(&(issuer("a", "x") + &issuer("b", "x")), &[]);
    assert!(error.contains("issuer.1.issuer") && error.contains("\"a\""), "{error}");
    assert!(refusal(&(issuer("a", "x") + &issuer("a", "y")), &[]).contains("issuer.1.name"));
    assert!(refusal(&issuer("auth", "x"), &[]).contains("issuer.0.name"));
    assert!(refusal(&issuer("a", ""), &[]).contains("auth.hmac_secret"));
    assert!(load(&issuer("a", ""), &[("TIDEGATE_AUTH__HMAC_SECRET", "")]).is_ok());
    assert!(refusal("[auth]\nleeway = '61s'", &[]).contains("auth.leeway"));
}

#[test]
fn production_refuses_known_and_short_secrets_of_issuers_too() {
    let mut own: Vec<(String, String)> = ["GATEWAY", "WORKER", "PURGER", "SERVICE", "SETUP", "OPS"]
        .map(|user| (format!("TIDEGATE_NATS__{user}__PASSWORD"), "x".repeat(32)))
        .to_vec();
    own.push(("TIDEGATE_API__KEY".to_owned(), String::new()));
    own.push(("TIDEGATE_AUTH__MAX_TOKEN_LIFE".to_owned(), "24h".to_owned()));
    let own: Vec<(&str, &str)> = own.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let production = |secret: &str| {
        format!(
            "env = 'production'\n[auth]\nhmac_secret = ''\n{ISSUER}algorithms = ['HS256']\nhmac_secret = '{secret}'"
        )
    };
    assert!(load(&production(&"x".repeat(32)), &own).is_ok());
    for secret in ["dev-secret-that-everybody-knows-0123456789", "short"] {
        let error = refusal(&production(secret), &own);
        assert!(error.contains("issuer.0.hmac_secret"), "{error}");
    }
    assert!(refusal("env = 'production'\n[auth]\nhmac_secret = ''", &own).contains("auth.hmac_secret"));
}

#[test]
fn an_issuers_keys_can_come_from_files() {
    let file = std::env::temp_dir().join(format!("tidegate-{}.pem", crate::id::random_token::<8>()));
    std::fs::write(&file, "a key\n").unwrap();
    let toml = format!("{ISSUER}algorithms = ['EdDSA']\npublic_key_file = '{}'", file.display());
    let config = load(&toml, &[]).unwrap();
    std::fs::remove_file(&file).unwrap();
    let issuer = config.issuers.first().unwrap();
    assert!(matches!(issuer.key_source(), Ok(KeySource::Public("a key\n"))));
}

#[test]
fn cache_recovery_needs_history_and_cache_on_subscribe_needs_cache_recovery() {
    let namespace = |keys: &str| format!("[[namespace]]\nname = 'a'\n{keys}");
    assert!(load(&namespace("history_size = 1\nrecovery = 'cache'\ncache_on_subscribe = true"), &[]).is_ok());
    let error = refusal(&namespace("recovery = 'cache'"), &[]);
    assert!(error.contains("namespace.0.recovery") && error.contains("history_size"), "{error}");
    let error = refusal(&namespace("history_size = 1\ncache_on_subscribe = true"), &[]);
    assert!(error.contains("namespace.0.cache_on_subscribe"), "{error}");
}

#[test]
fn personal_channels_use_the_wildcard_fanout_and_others_by_configuration() {
    let fanout = |toml: &str, name: &str| {
        let namespaces = load(toml, &[]).unwrap().all_namespaces();
        namespaces.iter().find(|namespace| namespace.name == name).map(Namespace::fanout)
    };
    let user = "[[namespace]]\nname = 'user'\nallow_subscribe = 'nobody'\n";
    for toml in ["", user, &format!("{user}fanout = 'wildcard'")] {
        assert_eq!(fanout(toml, "user"), Some(Fanout::Wildcard));
    }
    assert_eq!(fanout("[[namespace]]\nname = 'a'", "a"), Some(Fanout::Channel));
    assert_eq!(fanout("[[namespace]]\nname = 'a'\nfanout = 'wildcard'", "a"), Some(Fanout::Wildcard));
    let error = refusal(&format!("{user}fanout = 'channel'"), &[]);
    assert!(error.contains("namespace.0.fanout") && error.contains("wildcard"), "{error}");
}

#[test]
fn no_connection_begins_with_the_personal_channel_of_one_user() {
    let namespace = |keys: &str| format!("[[namespace]]\nname = 'a'\n{keys}");
    assert!(load(&namespace("personal = true\nautomatic = ['all', 'a#b']"), &[]).is_ok());
    assert!(load(&namespace("automatic = ['#42']"), &[]).is_ok());
    let error = refusal(&namespace("personal = true\nautomatic = ['#42']"), &[]);
    assert!(error.contains("namespace.0.automatic") && error.contains("one user"), "{error}");
}

#[test]
fn publish_worker_needs_a_route_and_the_route_needs_its_namespace() {
    let namespace = "[[namespace]]\nname = 'room'\npublish = 'worker'\n";
    let route = "[[route]]\nname = 'rooms'\nmatch = 'pub.room'\n";
    let config = load(&format!("{namespace}{route}"), &[]).unwrap();
    assert_eq!(config.routes.first().unwrap().matches.to_string(), "pub.room");
    let error = refusal(namespace, &[]);
    assert!(error.contains("namespace.0.publish") && error.contains("pub.room"), "{error}");
    for namespace in ["", "[[namespace]]\nname = 'room'\n"] {
        let error = refusal(&format!("{namespace}{route}"), &[]);
        assert!(error.contains("route.0.match") && error.contains("\"room\""), "{error}");
    }
    assert!(refusal(&format!("{namespace}{route}answer = 'later'\n"), &[]).contains("route.0.answer"));
    let other = route.replace("'rooms'", "'others'");
    assert!(refusal(&format!("{namespace}{route}{other}"), &[]).contains("route.1.match"));
    let user = "[[namespace]]\nname = 'user'\nallow_subscribe = 'nobody'\npublish = 'worker'\n";
    assert!(refusal(user, &[]).contains("namespace.0.publish"));
}

#[test]
fn memory_storage_needs_replicas() {
    let namespace = |keys: &str| format!("[[namespace]]\nname = 'a'\nstorage = 'memory'\n{keys}");
    assert!(load(&namespace("replicas = 3"), &[]).is_ok());
    assert!(load(&namespace(""), &[("TIDEGATE_STREAMS__REPLICAS", "3")]).is_ok());
    let error = refusal(&namespace(""), &[]);
    assert!(error.contains("namespace.0.storage") && error.contains("restarts"), "{error}");
    assert!(refusal(&namespace("replicas = 6"), &[]).contains("namespace.0.replicas"));
}

#[test]
fn a_variable_that_sets_no_key_is_refused_with_the_name_that_is_meant() {
    for (typed, meant) in [
        ("TIDEGATE_GATEWAY_LISTEN", "TIDEGATE_GATEWAY__LISTEN"),
        ("TIDEGATE__GATEWAY__LISTEN", "TIDEGATE_GATEWAY__LISTEN"),
        ("TIDEGATE_GATEWAY___LISTEN", "TIDEGATE_GATEWAY__LISTEN"),
        ("TIDEGATE_GATEWAY__LISTN", "TIDEGATE_GATEWAY__LISTEN"),
        ("TIDEGATE_LOG_LEVEL", "TIDEGATE_LOG__LEVEL"),
        ("TIDEGATE_NATS_URL", "TIDEGATE_NATS__URL"),
        ("TIDEGATE_NATS_GATEWAY_PASSWORD", "TIDEGATE_NATS__GATEWAY__PASSWORD"),
        ("TIDEGATE_NATS_GATEWAY_PASSWORD_FILE", "TIDEGATE_NATS__GATEWAY__PASSWORD_FILE"),
        ("TIDEGATE_GATEWAY__LIMITS_CHANNELS", "TIDEGATE_GATEWAY__LIMITS__CHANNELS"),
        ("TIDEGATE_AUTH__HMAC__SECRET", "TIDEGATE_AUTH__HMAC_SECRET"),
        ("TIDEGATE_HMAC_SECRET", "TIDEGATE_<SECTION>__<KEY>"),
        ("TIDEGATE_", "TIDEGATE_<SECTION>__<KEY>"),
        ("TIDEGATE_PORT", "TIDEGATE_<SECTION>__<KEY>"),
    ] {
        let error = refusal("", &[(typed, "1s")]);
        assert!(error.contains(typed) && error.contains(meant), "{typed}: {error}");
    }
    assert!(
        load("", &[("TIDEGATE_CONFIG", "x"), ("TIDEGATE_ENV", "development"), ("OTHER_GATEWAY", "1")])
            .is_ok()
    );
    let kubernetes = [
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("TIDEGATE_GATEWAY_SERVICE_HOST", "10.0.0.2"),
        ("TIDEGATE_GATEWAY_SERVICE_PORT_CLIENTS", "8000"),
        ("TIDEGATE_GATEWAY_PORT", "tcp://10.0.0.2:8000"),
        ("TIDEGATE_GATEWAY_PORT_8000_TCP_ADDR", "10.0.0.2"),
        ("TIDEGATE_SERVICE_HOST", "10.0.0.2"),
    ];
    assert!(load("", &kubernetes).is_ok(), "variables that Kubernetes sets for services");
    let error = refusal("", &[kubernetes[0], ("TIDEGATE_GATEWAY_LISTEN", "127.0.0.1:1")]);
    assert!(error.contains("TIDEGATE_GATEWAY__LISTEN"), "{error}");
}

#[test]
fn an_error_names_the_namespace_route_or_issuer_and_the_line_of_the_file() {
    let route = "[[route]]\nname = 'orders'\nmatch = 'rpc.orders'\n";
    for (toml, name, line) in [
        (
            "[[namespace]]\nname = 'a'\n[[namespace]]\nname = 'chat'\nforce_join_leave = true\n",
            "namespace \"chat\"",
            5,
        ),
        ("[[namespace]]\nname = 'chat'\nhistory_sise = 1\n", "namespace \"chat\"", 3),
        ("[[namespace]]\nname = 'chat'\nhistory_size = 'many'\n", "namespace \"chat\"", 3),
        ("[[namespace]]\nname = 'chat'\nallow_publish = 'everybody'\n", "namespace \"chat\"", 3),
        (&format!("{route}timeout = 5\n"), "route \"orders\"", 4),
        (&format!("{route}max_attempts = 0\n"), "route \"orders\"", 4),
        (&format!("\n{route}backoff = {{ base = '2h' }}\n"), "route \"orders\"", 5),
        ("[[route]]\nname = 'orders'\n", "route \"orders\"", 1),
        (&format!("{ISSUER}algorithms = []\npublic_key = 'x'"), "issuer \"a\"", 4),
        ("[gateway]\n\nping_interval = '1ms'\n", ".toml line 3", 3),
    ] {
        let error = refusal(toml, &[]);
        assert!(error.contains(name) && error.contains(&format!(".toml line {line})")), "{toml}: {error}");
    }
    let routes = ("TIDEGATE_ROUTE", "[{name=\"orders\", match=\"rpc.orders\", max_attempts=0}]");
    let error = refusal("", &[routes]);
    assert!(error.contains("(route \"orders\", from TIDEGATE_ROUTE)"), "{error}");
    let error = refusal("[gateway\n", &[]);
    assert!(error.contains(".toml") && error.contains("line 1") && !error.contains("``"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_next_step_and_without_a_number() {
    let directory = std::env::temp_dir();
    let of = |file: &Path| Config::from_sources(Some(file), BTreeMap::new(), &[]).unwrap_err().to_string();
    for error in [
        of(Path::new("/nonexistent/tidegate.toml")),
        of(&directory),
        refusal("", &[("TIDEGATE_API__KEY_FILE", "/nonexistent/key")]),
        refusal("", &[("TIDEGATE_API__KEY_FILE", directory.to_str().unwrap())]),
        refusal(&format!("{ISSUER}algorithms = ['RS256']\npublic_key_file = '/nonexistent/key'"), &[]),
    ] {
        assert!(!error.contains("os error"), "{error}");
        let step = ["name another with", "--config", "check"].iter().any(|step| error.contains(step));
        assert!(step, "{error}");
    }
}

#[test]
fn an_origin_that_can_never_match_and_an_unknown_stock_handler_are_refused() {
    let error = refusal("[gateway]\norigins = ['https://a.example.com', 'https://*.example.com']", &[]);
    assert!(
        error.contains("gateway.origins") && error.contains("line 2") && error.contains("*.example"),
        "{error}"
    );
    let error = refusal("[[route]]\nname = 'a'\nmatch = 'rpc.a'\nhandler = 'ecko'\n", &[]);
    assert!(
        error.contains("route.0.handler") && error.contains("echo, forward, quakes, room, sql, webhook"),
        "{error}"
    );
}

#[test]
fn a_key_that_another_one_has_replaced_is_refused_with_the_name_of_that_one() {
    let said = refusal("[streams]\nin_max_bytes = '1 GiB'\n", &[]);
    assert!(said.contains("streams.in_max_bytes") && said.contains("`max_bytes` in its [[route]]"), "{said}");
    let said = refusal("", &[("TIDEGATE_STREAMS__IN_MAX_BYTES", "1 GiB")]);
    assert!(said.contains("TIDEGATE_STREAMS__IN_MAX_BYTES") && said.contains("`max_bytes`"), "{said}");
}

/// The variables of a production deployment with secrets of its own.
fn own_secrets() -> Vec<(&'static str, String)> {
    [
        ("TIDEGATE_AUTH__HMAC_SECRET", 32),
        ("TIDEGATE_API__KEY", 32),
        ("TIDEGATE_NATS__GATEWAY__PASSWORD", 16),
        ("TIDEGATE_NATS__WORKER__PASSWORD", 16),
        ("TIDEGATE_NATS__PURGER__PASSWORD", 16),
        ("TIDEGATE_NATS__SERVICE__PASSWORD", 16),
        ("TIDEGATE_NATS__SETUP__PASSWORD", 16),
        ("TIDEGATE_NATS__OPS__PASSWORD", 16),
    ]
    .map(|(name, length)| (name, "x".repeat(length)))
    .to_vec()
}

#[test]
fn each_program_needs_only_its_own_secrets_in_production() {
    let load = |role, secrets: &[(&str, String)]| {
        let mut variables: BTreeMap<String, String> =
            secrets.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        variables.insert("TIDEGATE_ENV".to_owned(), "production".to_owned());
        variables.insert("TIDEGATE_AUTH__MAX_TOKEN_LIFE".to_owned(), "24h".to_owned());
        Config::from_sources_as(role, None, variables, &[]).map_err(|error| error.to_string())
    };
    for (role, needs) in [
        (
            Role::All,
            &["AUTH__HMAC_SECRET", "API__KEY", "GATEWAY", "WORKER", "PURGER", "SERVICE", "SETUP", "OPS"][..],
        ),
        (Role::Gateway, &["AUTH__HMAC_SECRET", "API__KEY", "NATS__GATEWAY"]),
        (Role::Worker, &["NATS__WORKER"]),
        (Role::Purger, &["NATS__PURGER"]),
        (Role::Setup, &["NATS__SETUP"]),
        (Role::Service, &["NATS__SERVICE"]),
        (Role::Signer, &["AUTH__HMAC_SECRET"]),
        (Role::Client, &[]),
    ] {
        let own = own_secrets();
        let needed = |name: &str| needs.iter().any(|need| name.contains(need));
        let its: Vec<_> = own.iter().filter(|(name, _)| needed(name)).cloned().collect();
        load(role, &its).unwrap_or_else(|error| panic!("{role:?} starts with its own secrets: {error}"));
        for (missing, _) in &its {
            let others: Vec<_> = own.iter().filter(|(name, _)| name != missing).cloned().collect();
            let error = load(role, &others).expect_err("refused");
            assert!(error.contains(missing), "{role:?} without {missing}: {error}");
        }
        // A file that another program's user owns.
        for (foreign, _) in own.iter().filter(|(name, _)| !needed(name)) {
            let mut all = its.clone();
            let file = format!("{foreign}_FILE");
            all.push((&file, "/nonexistent/secret".to_owned()));
            assert!(load(role, &all).is_ok(), "{role:?} reads {foreign}");
        }
    }
}

#[test]
fn production_refuses_a_secret_of_a_few_letters_with_the_least_length() {
    for (key, least) in own_secrets().into_iter().map(|(key, value)| (key, value.len())) {
        for length in [1, least - 1] {
            let mut own = own_secrets();
            own.iter_mut().filter(|(name, _)| *name == key).for_each(|(_, value)| value.truncate(length));
            let own: Vec<_> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let error = refusal("env = 'production'", &own);
            assert!(error.contains(key) && error.contains(&format!("at least {least} bytes")), "{error}");
        }
    }
}

#[test]
fn the_namespace_user_keeps_its_own_defaults_when_it_sets_something_else() {
    let user = |keys: &str| {
        let namespaces =
            load(&format!("[[namespace]]\nname = 'user'\n{keys}"), &[]).unwrap().all_namespaces();
        namespaces.into_iter().find(|namespace| namespace.name == "user").unwrap()
    };
    assert_eq!(user(""), Namespace::user());
    assert_eq!(user("history_size = 5\n").history_size, 5);
    assert_eq!(user("history_size = 0\n").history_size, 0);
    let presence = user("presence = true\n");
    assert_eq!((presence.history_size, presence.allow_subscribe), (100, Audience::Nobody));
    assert!(refusal("[[namespace]]\nname = 'user'\nallow_subscribe = 'anyone'", &[]).contains("nobody"));
}

/// Every key of the default file with its default.
fn every_key() -> Vec<(String, toml_edit::Value)> {
    fn collect(table: &toml_edit::Table, prefix: &str, keys: &mut Vec<(String, toml_edit::Value)>) {
        for (name, item) in table {
            let key = format!("{prefix}{name}");
            match item {
                toml_edit::Item::Table(table) => collect(table, &format!("{key}."), keys),
                toml_edit::Item::Value(value) => keys.push((key, value.clone())),
                _ => {}
            }
        }
    }
    let mut keys = Vec::new();
    collect(DEFAULT_TOML.parse::<toml_edit::DocumentMut>().unwrap().as_table(), "", &mut keys);
    keys
}

#[test]
fn no_duration_size_or_number_is_without_bounds() {
    let is_duration = |text: &str| humantime::parse_duration(text).is_ok();
    let may_be_zero = [
        "gateway.drain.window",
        "auth.leeway",
        "auth.refresh_grace",
        "auth.max_token_life",
        "hooks.cache",
        "worker.drain",
    ];
    let mut tried = 0;
    for (key, default) in every_key() {
        let values: &[&str] = match &default {
            toml_edit::Value::Integer(_) => &["0", "-1", "9223372036854775807", "'many'", "1.5"],
            toml_edit::Value::String(text) if is_duration(text.value()) => {
                &["'0s'", "'1000y'", "'18446744073709551615s'", "5", "-1", "'5'", "'2M'", "''"]
            }
            toml_edit::Value::String(text) if text.value().parse::<bytesize::ByteSize>().is_ok() => {
                &["0", "'0 B'", "9223372036854775807", "'1 EiB'", "-1", "'64 kilo'", "''"]
            }
            _ => continue,
        };
        for value in values.iter().filter(|value| **value != "'0s'" || !may_be_zero.contains(&key.as_str())) {
            let error = refusal(&format!("{key} = {value}"), &[]);
            assert!(error.contains(&key) && error.contains(".toml line 1"), "{key} = {value}: {error}");
            tried += 1;
        }
    }
    assert!(tried > 200, "{tried} values were tried");
    for table in [
        "[[namespace]]\nname = 'a'\nhistory_size = 1\nhistory_ttl = '0s'",
        "[[namespace]]\nname = 'a'\nhistory_size = 1\nhistory_ttl = '1000y'",
        "[[route]]\nname = 'a'\nmatch = 'rpc.a'\ntimeout = '0s'",
        "[[route]]\nname = 'a'\nmatch = 'rpc.a'\nmax_bytes = 0",
        "[[route]]\nname = 'a'\nmatch = 'rpc.a'\nmax_bytes = '2000000 TiB'",
        "[[route]]\nname = 'a'\nmatch = 'rpc.a'\ntimeout = '1000y'",
        "[[route]]\nname = 'a'\nmatch = 'rpc.a'\nbackoff = { base = '0s', cap = '1000y' }",
    ] {
        assert!(refusal(table, &[]).contains("must be between"), "{table}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_in_plain_words() {
    let jargon =
        ["usize", "u32", "enum ", "struct ", "sequence", "invalid type", "variant", "ByteSize", "socket"];
    let values = ["''", "'abc'", "-1", "3.5", "true", "[]", "{}", "['a']", "'\\u0000'", "' '", "'2 m'"];
    for (key, _) in every_key() {
        for value in values {
            let value = value.replace("'\\u0000'", "\"\\u0000\"");
            if let Err(error) = load(&format!("{key} = {value}"), &[]) {
                // A relation names the other key, and this one with its value.
                let named = error.contains(&key)
                    && (error.contains(".toml line 1") || error.contains("has to be at least"));
                // Without the file's name, which is random.
                let said = error.rsplit_once(".toml").map_or(error.as_str(), |(_, said)| said);
                let plain = !jargon.iter().any(|word| said.contains(word));
                assert!(named && plain && !error.contains("``"), "{key} = {value}: {error}");
            }
        }
    }
    for (toml, advice) in [
        ("env = 'prod'", "did you mean \"production\"?"),
        ("env = 'Production'", "did you mean \"production\"?"),
        ("log.format = 'JSON'", "did you mean \"json\"?"),
        ("log.level = 'warning'", "\"warning\" is not a level"),
        ("log.level = 'info,verbose'", "\"verbose\" is not a level"),
        ("log.level = ''", "is empty"),
        ("log.level = 'a=b=c'", "not a filter"),
        ("gateway.answer_timeout = 4", "4 has no unit"),
        ("gateway.listen = 'localhost:8000'", "write an IP address and a port"),
        ("gateway.listen = 8000", "write an IP address and a port"),
        ("gateway.origins = 'https://a.example.com'", "a list"),
        ("auth.anonymous = 'yes'", "true or false"),
        ("nats.url = 'nats://user:hunter2@127.0.0.1'", "nats.<program>.password"),
        ("nats.url = ''", "a server is missing"),
        ("nats.worker.user = ''", "nats.worker.user"),
        ("gateway = 5", "a section with keys of its own"),
    ] {
        let error = refusal(toml, &[]);
        assert!(error.contains(advice) && !error.contains("hunter2"), "{toml}: {error}");
    }
    assert!(load("log.level = 'info,tidegate_gateway=debug'", &[]).is_ok());
}

#[test]
fn a_variable_sets_the_text_that_it_has_whatever_it_looks_like() {
    for secret in ["007", "1e5", "true", "-5", "[abc", "{a}", "\"abc\"", " a "] {
        let config = load("", &[("TIDEGATE_NATS__WORKER__PASSWORD", secret)]).unwrap();
        assert_eq!(config.nats.worker.password.expose(), secret);
    }
    let config = load("", &[("TIDEGATE_NATS__PREFIX", "2024"), ("TIDEGATE_AUTH__ISSUER", "123")]).unwrap();
    assert_eq!((config.nats.prefix.as_str(), config.auth.issuer.as_str()), ("2024", "123"));
    let origins = ("TIDEGATE_GATEWAY__ORIGINS", "https://a.example.com, https://b.example.com");
    assert_eq!(
        load("", &[origins]).unwrap().gateway.origins,
        ["https://a.example.com", "https://b.example.com"]
    );
    let route = ("TIDEGATE_ROUTE", r#"[{"name": "a", "match": "rpc.a", "handler": "echo"}]"#);
    assert_eq!(load("", &[route]).unwrap().routes.len(), 1);
}

#[test]
fn a_variable_that_would_go_unnoticed_is_refused() {
    for (variables, advice) in [
        (&[("tidegate_gateway__listen", "127.0.0.1:1")][..], "TIDEGATE_GATEWAY__LISTEN"),
        (&[("Tidegate_Api__Key_File", "x")], "TIDEGATE_API__KEY_FILE"),
        (&[("TIDEGATE_API__KEY", "a"), ("TIDEGATE_API__KEY_FILE", "b")], "set the same key"),
        (&[("TIDEGATE_API__KEY", "a"), ("TIDEGATE_api__key", "b")], "set the same key"),
        (&[("TIDEGATE_API__KEY_FILE", "")], "names no file"),
        (&[("TIDEGATE_API__KEY_FILE", "/dev/null")], "is empty"),
        (&[("TIDEGATE_GATEWAY", "127.0.0.1:1")], "[gateway] is a section"),
        (&[("TIDEGATE_GATEWAY__", "127.0.0.1:1")], "[gateway] is a section"),
        (&[("TIDEGATE_ROUTE__0__NAME", "a")], "TIDEGATE_ROUTE='[{"),
        (&[("TIDEGATE_NAMESPACE__CHAT__HISTORY_SIZE", "1")], "TIDEGATE_NAMESPACE='[{"),
    ] {
        let error = refusal("", variables);
        assert!(error.contains(advice), "{variables:?}: {error}");
    }
    assert!(load("", &[("tidegate_theme", "dark")]).is_ok(), "none of ours");
}

#[test]
fn streams_that_would_take_a_gone_request_for_a_living_one_are_refused_with_both_keys() {
    for (streams, first, second) in [
        ("duplicate_window = '2h'", "streams.result_ttl", "streams.duplicate_window"),
        ("result_ttl = '1m'", "streams.result_ttl", "streams.duplicate_window"),
        ("duplicate_window = '3s'", "streams.duplicate_window", "gateway.answer_timeout"),
        ("reply_max_bytes = '400 KiB'", "streams.reply_max_bytes", "streams.answer_max_bytes"),
    ] {
        let error = refusal(&format!("[streams]\n{streams}"), &[]);
        assert!(error.starts_with(&format!("`{first}`")) && error.contains(second), "{streams}: {error}");
    }
    for streams in [
        "duplicate_window = '4s'\nresult_ttl = '4s'",
        "duplicate_window = '1h'",
        "reply_max_bytes = '512 KiB'",
    ] {
        assert!(load(&format!("[streams]\n{streams}"), &[]).is_ok(), "{streams}");
    }
}

#[test]
fn a_namespaces_ids_are_remembered_for_as_long_as_a_gateway_repeats_a_publication() {
    let namespace = |window: &str| format!("[[namespace]]\nname = \"chat\"\nduplicate_window = \"{window}\"");
    let error = refusal(&namespace("3s"), &[]);
    assert!(error.contains("duplicate_window`") && error.contains("gateway.answer_timeout"), "{error}");
    assert!(refusal(&namespace("25h"), &[]).contains("duplicate_window"));
    let window = load(&namespace("10s"), &[]).unwrap().namespaces[0].duplicate_window;
    assert_eq!(window, Some(Duration::from_secs(10)));
}

#[test]
fn a_burst_that_can_never_come_and_a_test_with_an_unknown_key_are_refused() {
    let limit = |burst: u32| format!("[[rate_limit]]\nname = 'shop'\nper_second = 2\nburst = {burst}\n");
    load(&limit(10), &[]).unwrap();
    let error = refusal(&limit(11), &[]);
    assert!(
        error.contains("`rate_limit.0.burst`") && error.contains("must be at most 5 times per_second"),
        "{error}"
    );
    let test = "[[test]]\nname = 'a'\n[[test.receiver]]\nstatus = 200\nreply = '1'\n[test.expect]\n";
    let error = refusal(test, &[]);
    assert!(error.contains("`test.0.receiver.0.reply`") && error.contains("is not a key"), "{error}");
    let config = load(&test.replace("reply", "response"), &[]).unwrap();
    assert_eq!(config.tests.first().unwrap().receiver.first().unwrap().response, "1");
}

#[test]
fn a_response_of_a_test_that_cannot_be_sent_is_refused() {
    for (receiver, key, says) in [
        ("status = 20", "test.0.receiver.0.status", "20 is no status"),
        ("status = 1000", "test.0.receiver.0.status", "200 to 599"),
        (
            "response_headers = {'retry after' = '7'}",
            "test.0.receiver.0.response_headers",
            "no name of a header",
        ),
        (
            r#"response_headers = {retry-after = "7\n"}"#,
            "test.0.receiver.0.response_headers",
            "printable ASCII",
        ),
        ("headers = {'' = '7'}", "test.0.receiver.0.headers", "no name of a header"),
    ] {
        let error =
            refusal(&format!("[[test]]\nname = 'a'\n[[test.receiver]]\n{receiver}\n[test.expect]\n"), &[]);
        assert!(error.contains(key) && error.contains(says), "{error}");
    }
}

#[test]
fn a_schema_is_a_file_a_table_or_json_in_a_text() {
    let schema = |text: &str| {
        load(&format!("[[route]]\nname = 'a'\nmatch = 'rpc.a'\nschema = {text}\n"), &[])
            .map(|config| config.routes.first().unwrap().schema.clone().unwrap())
    };
    assert_eq!(schema("'schemas/a.json'").unwrap(), Schema::File("schemas/a.json".into()));
    let inline = Schema::Inline(serde_json::json!({"type": "object"}));
    for text in ["{ type = 'object' }", "'{\"type\": \"object\"}'"] {
        assert_eq!(schema(text).unwrap(), inline);
    }
    for text in ["1", "''", "'{'"] {
        let error = schema(text).unwrap_err();
        assert!(error.contains("`route.0.schema`") && error.contains("route \"a\""), "{error}");
    }
}

#[test]
fn trusted_proxies_are_networks_and_never_everybody() {
    let config = load("[gateway]\ntrusted_proxies = ['10.0.0.0/8', ' 192.0.2.7', 'fd00::/8']", &[]).unwrap();
    let all: Vec<_> = config.gateway.proxies().iter().map(ToString::to_string).collect();
    assert_eq!(all, ["10.0.0.0/8", "192.0.2.7/32", "fd00::/8"]);
    let config =
        load("[gateway]\ntrusted_proxies = ['::ffff:10.0.0.0/104', '::ffff:192.0.2.7']", &[]).unwrap();
    let all: Vec<_> = config.gateway.proxies().iter().map(ToString::to_string).collect();
    assert_eq!(all, ["10.0.0.0/8", "192.0.2.7/32"], "as the addresses of clients are");
    for wrong in ["10.0.0.0/33", "proxy.example.com", "", "0.0.0.0/0", "::/0", "::ffff:0:0/96"] {
        let error = refusal(&format!("[gateway]\ntrusted_proxies = ['{wrong}']"), &[]);
        assert!(error.contains("gateway.trusted_proxies"), "{error}");
    }
}

#[test]
fn a_certificate_and_its_key_come_together() {
    for (toml, key) in
        [("certificate = 'a.pem'", "gateway.tls.key"), ("key = 'a.pem'", "gateway.tls.certificate")]
    {
        let error = refusal(&format!("[gateway.tls]\n{toml}"), &[]);
        assert!(error.contains(key) && error.contains("beside it"), "{error}");
    }
    let config = load("[gateway.tls]\ncertificate = 'a.pem'\nkey = 'b.pem'", &[]).unwrap();
    assert_eq!(
        config.gateway.websocket("127.0.0.1:1".parse().unwrap()),
        "wss://127.0.0.1:1/connection/websocket"
    );
    assert!(!load("", &[]).unwrap().gateway.tls.is_on());
}

#[test]
fn limits_have_bounds() {
    for (key, least, most, below, above) in [
        ("connections_per_address", "1", "1000000", "0", "1000001"),
        ("connections_per_user", "1", "1000000", "0", "1000001"),
        ("messages_per_second", "1", "1000000", "0", "1000001"),
        ("user_messages_per_second", "1", "1000000", "0", "1000001"),
        ("json_depth", "8", "128", "7", "129"),
        ("channel_name", "1", "255", "0", "256"),
        ("header_bytes", "'1 KiB'", "'1 MiB'", "'1023 B'", "'1025 KiB'"),
        ("buffered_total", "'1 MiB'", "'1 TiB'", "'1023 KiB'", "'1025 GiB'"),
    ] {
        let of = |value: &str| format!("[gateway.limits]\n{key} = {value}");
        for good in [least, most] {
            assert!(load(&of(good), &[]).is_ok(), "{key} = {good}");
        }
        for bad in [below, above] {
            let error = refusal(&of(bad), &[]);
            assert!(error.contains(&format!("gateway.limits.{key}")), "{key} = {bad}: {error}");
        }
    }
}
