//! The check of `gateway.origins`: an entry that no browser's `Origin` header can equal is a mistake.

use std::net::Ipv6Addr;

use super::{Problem, problem};
use crate::config::Config;

pub(super) fn origins(config: &Config) -> Result<(), Problem> {
    for origin in &config.gateway.origins {
        if let Some(text) = mistake(origin.trim()) {
            return problem("gateway.origins", format!("{origin:?} can never match: {text}"));
        }
    }
    Ok(())
}

/// Why no page can have this origin, and what to write.
fn mistake(origin: &str) -> Option<String> {
    if ["*", "null"].contains(&origin) {
        return None;
    }
    if origin.contains('*') {
        return Some(
            "\"*\" stands alone, and no part of an origin may be a wildcard; list each origin".to_owned(),
        );
    }
    if origin.contains([',', ' ']) {
        return Some(
            "write several origins as [\"https://a.example.com\", \"https://b.example.com\"]".to_owned(),
        );
    }
    let Some((scheme, rest)) = origin.split_once("://") else {
        let host = origin.trim_matches(['/', ':']);
        let host = if host.is_empty() { "app.example.com" } else { host };
        return Some(format!("its scheme is missing; write \"https://{host}\""));
    };
    let authority = rest.trim_end_matches('/');
    let fixed =
        authority.split(['/', '?', '#']).next().unwrap_or_default().rsplit('@').next().unwrap_or_default();
    match scheme.to_ascii_lowercase().as_str() {
        "ws" | "wss" => {
            let http = scheme.to_ascii_lowercase().replace("ws", "http");
            return Some(format!("a page has the scheme it was loaded with; write \"{http}://{fixed}\""));
        }
        "file" => return Some("pages from files have the origin \"null\"".to_owned()),
        scheme
            if !scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
                || scheme.contains(not_of_a_scheme) =>
        {
            return Some(format!("{scheme:?} is no scheme; write \"https://{fixed}\""));
        }
        _ => {}
    }
    if fixed != authority {
        return Some(format!("an origin is scheme://host[:port] only; write \"{scheme}://{fixed}\""));
    }
    host_and_port(authority)
}

fn not_of_a_scheme(letter: char) -> bool {
    !(letter.is_ascii_alphanumeric() || "+-.".contains(letter))
}

fn host_and_port(authority: &str) -> Option<String> {
    let end =
        if authority.starts_with('[') { authority.find(']').map(|end| end + 1) } else { authority.find(':') };
    let (host, port) = authority.split_at(end.unwrap_or(authority.len()));
    if host.is_empty() {
        return Some("its host is missing; write \"https://app.example.com\"".to_owned());
    }
    if !host.is_ascii() {
        return Some(
            "browsers send international names in their ASCII form, which begins with xn--".to_owned(),
        );
    }
    if let Some(inner) = host.strip_prefix('[') {
        let Some(ip) = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok()) else {
            return Some(format!("{host:?} is no IPv6 address"));
        };
        if format!("[{ip}]") != host.to_ascii_lowercase() {
            return Some(format!("browsers shorten the address; write [{ip}]"));
        }
    } else if host.contains(|letter: char| !(letter.is_ascii_alphanumeric() || "-._".contains(letter))) {
        return Some(format!("{host:?} is no name of a host"));
    }
    let is_port = |port: &str| {
        !port.starts_with('0')
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok()
    };
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return Some(format!("{:?} is no port; ports are 1 to 65535", port.trim_start_matches(':')));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_that_no_browser_sends_is_a_mistake() {
        for good in [
            "*",
            "null",
            "https://app.example.com",
            "https://app.example.com/",
            "HTTPS://App.Example.com:8443",
            "http://localhost:5173",
            "http://[::1]:3000",
            "http://127.0.0.1",
            "capacitor://localhost",
            "chrome-extension://abcdefghijklmnop",
        ] {
            assert_eq!(mistake(good), None, "{good}");
        }
        for (bad, advice) in [
            ("", "scheme is missing"),
            ("app.example.com", "\"https://app.example.com\""),
            ("localhost:5173", "\"https://localhost:5173\""),
            ("//app.example.com", "\"https://app.example.com\""),
            ("https:app.example.com", "scheme is missing"),
            ("https://app.example.com/chat", "\"https://app.example.com\""),
            ("https://app.example.com?x", "\"https://app.example.com\""),
            ("https://app.example.com/#", "\"https://app.example.com\""),
            ("https://user@app.example.com", "\"https://app.example.com\""),
            ("https://*.example.com", "stands alone"),
            ("https://app.example.com:*", "stands alone"),
            ("**", "stands alone"),
            ("https://a.example.com, https://b.example.com", "several"),
            ("https://a.example.com;", "no name of a host"),
            ("https://a.example.com\"", "no name of a host"),
            ("https://", "host is missing"),
            ("https://:443", "host is missing"),
            ("https://a.example.com:", "no port"),
            ("https://a.example.com:0", "no port"),
            ("https://a.example.com:65536", "no port"),
            ("https://a.example.com:80x", "no port"),
            ("https://a.example.com:0443", "no port"),
            ("https://b\u{fc}cher.example", "xn--"),
            ("https://[::1", "IPv6"),
            ("https://[0:0:0:0:0:0:0:1]", "[::1]"),
            ("wss://app.example.com", "\"https://app.example.com\""),
            ("ws://app.example.com:81/x", "\"http://app.example.com:81\""),
            ("file:///home/me/index.html", "\"null\""),
            ("1http://a.example.com", "no scheme"),
        ] {
            let said = mistake(bad).unwrap_or_default();
            assert!(said.contains(advice), "{bad:?}: {said:?}");
        }
    }
}
