//! The house rules, as tests: ranks, habits and names that a compiler does not check.
//!
//! A rule is a row of [`RULES`]: over which files, why, and what it finds in one of them. Every row
//! has planted snippets that it must find and innocent ones that it must not, and fails where it saw
//! no file at all. `source.rs` tells code from comments, strings and tests.

pub mod source;

use std::fmt::Write as _;
use std::path::Path;

use source::{File, idents, line_of, paths_from, segments};

/// Rank and module: a file imports only lower ranks or its own folder (design: the house).
const RANKS: [(&str, u8); 21] = [
    ("clock", 0),
    ("metrics", 0),
    ("identity", 0),
    ("policy", 1),
    ("fetch", 1),
    ("revocation", 1),
    ("tls", 2),
    ("token", 3),
    ("upstream", 3),
    ("access", 4),
    ("audit", 4),
    ("decisions", 4),
    ("session", 4),
    ("proxy", 5),
    ("config", 6),
    ("server", 7),
    ("admin", 7),
    ("trial", 7),
    ("replay", 7),
    ("cli", 8),
    ("main", 9),
];
/// Imports within one rank: (who, whom, why).
const BESIDE: [(&str, &str, &str); 4] = [
    ("identity", "clock", "a caller's expiry is a `Timestamp`, a plain value"),
    ("server", "admin", "the composition root also starts what operators ask"),
    ("metrics", "clock", "ages are counted from a `Timestamp`, a plain value"),
    (
        "upstream",
        "token",
        "what a token is, how it is signed and where its issuer is found is known in one place",
    ),
];
/// Modules that stay pure, with all the crates that they may name.
const PURE: [(&str, &[&str]); 2] = [
    ("identity", &["hex", "schemars", "serde", "serde_json", "thiserror"]),
    (
        "policy",
        &[
            "fixedbitset",
            "http",
            "ipnet",
            "percent_encoding",
            "schemars",
            "serde",
            "serde_json",
            "smallvec",
            "thiserror",
        ],
    ),
];
const LINES_MAX: usize = 450;
const EMPTY_NAMES: [&str; 8] = ["utils", "util", "common", "helpers", "helper", "manager", "misc", "shared"];
const PANICS: [&str; 8] = [
    ".unwrap()",
    ".expect(",
    ".unwrap_err()",
    ".expect_err(",
    "panic!",
    "todo!",
    "unimplemented!",
    "unreachable!",
];

struct Rule {
    name: &'static str,
    /// The files looked at: those whose path starts with one of these.
    over: &'static [&'static str],
    find: fn(&File) -> Vec<Finding>,
    /// `(path, text)` in each of which the rule must find something.
    planted: &'static [(&'static str, &'static str)],
    /// `(path, text)` in which it must find nothing.
    innocent: &'static [(&'static str, &'static str)],
}

/// The line, and what is wrong there.
type Finding = (usize, String);

const RULES: &[Rule] = &[
    Rule {
        name: "a file says on its first line what it is for",
        over: &["src/", "tests/", "benches/"],
        find: |file| match file.text.starts_with("//! ") {
            true => Vec::new(),
            false => vec![(1, "no `//!` header".to_owned())],
        },
        planted: &[("src/a.rs", "use std::fmt;\n"), ("src/a.rs", "// plain\n")],
        innocent: &[("src/a.rs", "//! What it is for.\n")],
    },
    Rule {
        name: "a file is readable in one sitting",
        over: &["src/", "tests/", "benches/"],
        find: |file| match file.text.lines().count() {
            lines if lines > LINES_MAX => vec![(lines, format!("{lines} lines, at most {LINES_MAX}"))],
            _ => Vec::new(),
        },
        planted: &[("src/a.rs", LONG)],
        innocent: &[("src/a.rs", "//! Short.\n")],
    },
    Rule {
        name: "modules are named after things of the field",
        over: &["src/", "tests/", "benches/"],
        find: empty_names,
        planted: &[
            ("src/utils.rs", ""),
            ("src/token/helpers.rs", ""),
            ("src/common/mod.rs", ""),
            ("src/a.rs", "mod manager { }"),
        ],
        innocent: &[("src/token/claims.rs", "// no utils here\nmod tests {}")],
    },
    Rule {
        name: "a file imports only lower ranks or its own folder",
        over: &["src/"],
        find: ranks,
        planted: &[
            ("src/policy/rule.rs", "use crate::token::Jwt;"),
            ("src/policy/rule.rs", "fn f() { crate::tls::peer::read() }"),
            ("src/token/jwt.rs", "use crate::{clock::Clock, upstream::{self, Pool}};"),
            ("src/token/jwt.rs", "use crate::{\n    clock::Clock,\n    config,\n};"),
            ("src/proxy/exchange.rs", "use crate::config::File;"),
            ("src/policy/rule.rs", "use super::super::tls::Peer;"),
            ("src/clock.rs", "use super::policy::Policy;"),
            ("src/policy/rule.rs", "#[cfg(test)]\nmod tests { use crate::config::File; }"),
            ("src/unheard_of.rs", "use crate::clock::Clock;"),
            ("src/token/jwt.rs", "use crate::unheard_of::Thing;"),
            ("src/config/file.rs", "macro_rules! m { () => { $crate::cli::run() } }"),
        ],
        innocent: &[
            ("src/token/jwt.rs", "use crate::{clock::Clock, fetch};\nuse super::claims::Claims;"),
            (
                "src/token/jwt.rs",
                "use crate::token::claims::Claims; // crate::cli\nconst S: &str = \"crate::cli::x\";",
            ),
            ("src/identity/caller.rs", "use crate::clock::Timestamp;"),
            ("src/policy/rule.rs", "#[cfg(test)]\nmod tests { use super::super::route::Route; }"),
            ("src/main.rs", "use countersign::cli;"),
        ],
    },
    Rule {
        name: "who and whether stay pure: values in, values out",
        over: &["src/identity/", "src/policy/"],
        find: impure,
        planted: &[
            ("src/policy/rule.rs", "use hyper::Request;"),
            ("src/policy/rule.rs", "fn f(c: &rustls::ClientConfig) {}"),
            ("src/policy/rule.rs", "use tokio::time::Duration;"),
            ("src/policy/standing.rs", "use moka::sync::Cache;"),
            ("src/policy/rule.rs", "use crate::clock::Clock;"),
            ("src/identity/caller.rs", "use jsonwebtoken::Header;"),
            ("src/policy/rule.rs", "use std::net::TcpStream;"),
            ("src/policy/rule.rs", "use std::{fs, io};"),
        ],
        innocent: &[
            ("src/policy/rule.rs", "use std::net::IpAddr;\nuse ipnet::IpNet;\nuse crate::clock::Timestamp;"),
            ("src/policy/rule.rs", "// as hyper::Request does\nuse super::path::url::Url;"),
            ("src/policy/rule.rs", "#[cfg(test)]\nmod tests { use proptest::prelude::*; }"),
            ("src/proxy/exchange.rs", "use hyper::Request;"),
        ],
    },
    Rule {
        name: "nothing that serves can panic",
        over: &["src/"],
        find: |file| found(&file.production, &PANICS, "return an error, or restructure"),
        planted: &[
            ("src/a.rs", "fn f() { g().unwrap(); }"),
            ("src/a.rs", "fn f() { g()\n    .expect(\"why\"); }"),
            ("src/a.rs", "fn f() { panic!(\"no\") }"),
            ("src/a.rs", "fn f() { todo!() }"),
            ("src/a.rs", "fn f() { unimplemented!() }"),
            ("src/a.rs", "fn f() { unreachable!() }"),
            ("src/a.rs", "#[cfg(test)]\nmod tests { fn t() {} }\nfn f() { g().unwrap(); }"),
        ],
        innocent: &[
            ("src/a.rs", "fn f() { g().unwrap_or_default() } // .unwrap()\nconst S: &str = \"panic!\";"),
            ("src/a.rs", "#[cfg(test)]\nmod tests { fn t() { let c = '{'; g().unwrap() } }"),
        ],
    },
    Rule {
        name: "no crate has unsafe code",
        over: &["src/", "tests/", "benches/", "fuzz/"],
        find: |file| match file.is_root() && !file.code.contains("\n#![forbid(unsafe_code)]\n") {
            true => vec![(1, "no `#![forbid(unsafe_code)]`".to_owned())],
            false => Vec::new(),
        },
        planted: &[
            ("src/main.rs", "//! What it is for.\n"),
            ("tests/suite/main.rs", "//! Tests.\n// #![forbid(unsafe_code)]\n#![deny(unsafe_code)]\n"),
        ],
        innocent: &[
            ("src/lib.rs", "//! What it is for.\n#![forbid(unsafe_code)]\n"),
            ("src/cli/mod.rs", "//! No root.\n"),
        ],
    },
    Rule {
        name: "only clock.rs reads time",
        over: &["src/"],
        find: time,
        planted: &[
            ("src/token/jwt.rs", "fn f() { SystemTime::now(); }"),
            ("src/token/jwt.rs", "fn f() { std::time::Instant::now(); }"),
            ("src/token/jwt.rs", "fn f() { OffsetDateTime::now_utc(); }"),
            ("src/token/jwt.rs", "use tokio::time::Instant;\nfn f() { std::time::Instant::now(); }"),
            ("src/token/jwt.rs", "#[cfg(test)]\nmod tests { fn t() { SystemTime::now(); } }"),
        ],
        innocent: &[
            ("src/clock.rs", "fn f() { SystemTime::now(); Instant::now(); }"),
            ("src/proxy/exchange.rs", "fn f() { tokio::time::Instant::now(); clock.now(); }"),
            ("src/proxy/exchange.rs", "use tokio::time::{Instant, sleep};\nfn f() { Instant::now(); }"),
        ],
    },
    Rule {
        name: "only tls/ decides how certificates are verified",
        over: &["src/"],
        find: |file| match file.path.starts_with("src/tls/") {
            true => Vec::new(),
            false => {
                found(&file.code, &[".dangerous()", "ServerCertVerifier", "ClientCertVerifier"], "ask tls/")
            }
        },
        planted: &[
            ("src/fetch.rs", "fn f(c: ClientConfig) { c.dangerous(); }"),
            ("src/cli/demo.rs", "impl ServerCertVerifier for Any {}"),
        ],
        innocent: &[("src/tls/client.rs", "fn f(c: ClientConfig) { c.dangerous(); }")],
    },
    Rule {
        name: "no test sleeps: wait for the thing, or move the clock",
        over: &["src/", "tests/"],
        find: sleeps,
        planted: &[
            ("tests/suite/a.rs", "async fn t() { tokio::time::sleep(d).await }"),
            ("tests/suite/a.rs", "fn t() { std::thread::sleep(d) }"),
            ("src/a.rs", "#[cfg(test)]\nmod tests { fn t() { sleep(d) } }"),
        ],
        innocent: &[("src/a.rs", "async fn f() { tokio::time::sleep(d).await }")],
    },
    Rule {
        name: "an ignored test says what it needs",
        over: &["src/", "tests/"],
        find: |file| {
            let marks = file.text.match_indices("#[ignore").filter(|(at, _)| file.is_code(*at));
            let silent = marks.filter(|(at, _)| !file.text[*at..].starts_with("#[ignore = \"needs "));
            silent
                .map(|(at, _)| (line_of(&file.text, at), "write `#[ignore = \"needs …\"]`".to_owned()))
                .collect()
        },
        planted: &[
            ("tests/suite/a.rs", "#[ignore]\nfn t() {}"),
            ("tests/suite/a.rs", "#[ignore = \"slow\"]\nfn t() {}"),
        ],
        innocent: &[("tests/suite/a.rs", "#[ignore = \"needs curl; tests/run runs it\"]\nfn t() {}")],
    },
];

const LONG: &str = {
    const LINES: [u8; LINES_MAX + 1] = [b'\n'; LINES_MAX + 1];
    match std::str::from_utf8(&LINES) {
        Ok(text) => text,
        Err(_) => "",
    }
};

fn empty_names(file: &File) -> Vec<Finding> {
    let in_path = segments(&file.path).into_iter().filter(|name| EMPTY_NAMES.contains(name));
    let mut findings: Vec<Finding> = in_path.map(|name| (1, format!("a module named `{name}`"))).collect();
    for name in EMPTY_NAMES {
        findings.extend(found(&file.code, &[&format!("mod {name} ")], "name what it holds"));
    }
    findings
}

fn rank_of(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

fn ranks(file: &File) -> Vec<Finding> {
    let Some(own) = segments(&file.path).first().copied().filter(|own| *own != "lib") else {
        return Vec::new();
    };
    let Some(own_rank) = rank_of(own) else { return vec![(1, format!("`{own}` has no rank"))] };
    let allowed = |module: &str| {
        module == own
            || rank_of(module).is_some_and(|rank| rank < own_rank)
            || BESIDE.iter().any(|(who, whom, _)| (*who, *whom) == (own, module))
    };
    let imports = file.imports().into_iter().filter(|(_, module)| !allowed(module));
    imports.map(|(line, module)| (line, format!("`{own}` imports `{module}`"))).collect()
}

fn impure(file: &File) -> Vec<Finding> {
    let Some((_, crates)) = PURE.iter().find(|(module, _)| segments(&file.path).first() == Some(module))
    else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for name in dependencies().iter().filter(|name| !crates.contains(&name.as_str())) {
        findings.extend(
            paths_from(&file.production, name).map(|(at, _)| (line_of(&file.code, at), format!("`{name}`"))),
        );
    }
    const EFFECTS: [&str; 8] = ["fs", "io", "thread", "process", "env", "TcpStream", "Clock", "Stopwatch"];
    for (at, path) in paths_from(&file.production, "std").chain(paths_from(&file.production, "crate")) {
        let effects = idents(path).into_iter().filter(|name| EFFECTS.contains(name));
        findings.extend(effects.map(|name| (line_of(&file.code, at), format!("`{name}`"))));
    }
    findings
}

fn time(file: &File) -> Vec<Finding> {
    if file.path == "src/clock.rs" {
        return Vec::new();
    }
    // timeouts run on tokio's `Instant`; clippy surely knows it from the other
    let of_tokio = |path: &str| path.starts_with("time") && idents(path).contains(&"Instant");
    let instant = match paths_from(&file.code, "tokio").any(|(_, path)| of_tokio(path)) {
        true => "std::time::Instant::now",
        false => "Instant::now",
    };
    let code = file.code.replace("tokio::time::Instant::now", "");
    found(&code, &["SystemTime::now", instant, "::now_utc", "::now_local"], "take a `Clock` or `Stopwatch`")
}

fn sleeps(file: &File) -> Vec<Finding> {
    found(&file.test_code(), &["sleep(", "sleep_until("], "wait for the thing itself")
}

/// Every place where one of `words` stands.
fn found(code: &str, words: &[&str], remedy: &str) -> Vec<Finding> {
    let hits = |word: &str| code.match_indices(word).map(|(at, _)| at).collect::<Vec<_>>();
    let finding = |word: &str, at| (line_of(code, at), format!("`{word}`: {remedy}"));
    words.iter().flat_map(|word| hits(word).into_iter().map(move |at| finding(word, at))).collect()
}

/// The crates in Cargo.toml, as code names them.
fn dependencies() -> Vec<String> {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let tables = ["dependencies", "dev-dependencies"].map(|table| manifest[table].as_table().unwrap());
    tables.iter().flat_map(|table| table.keys()).map(|name| name.replace('-', "_")).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_house_rules_hold() {
    let files = source::rust_files(root(), &["src", "tests", "benches", "fuzz"]);
    let mut report = String::new();
    for rule in RULES {
        let over: Vec<_> =
            files.iter().filter(|file| rule.over.iter().any(|start| file.path.starts_with(start))).collect();
        assert!(!over.is_empty(), "`{}` saw no file", rule.name);
        println!("{}: {} files", rule.name, over.len());
        for file in over {
            for (line, what) in (rule.find)(file) {
                writeln!(report, "{}:{line}: {}: {what}", file.path, rule.name).unwrap();
            }
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn each_rule_finds_what_was_planted_and_nothing_else() {
    let mut seen = 0;
    for rule in RULES {
        for (path, text) in rule.planted {
            assert!(!(rule.find)(&File::new(path, text)).is_empty(), "`{}` misses {path}: {text}", rule.name);
            seen += 1;
        }
        for (path, text) in rule.innocent {
            assert_eq!((rule.find)(&File::new(path, text)), [], "`{}` in {path}: {text}", rule.name);
            seen += 1;
        }
    }
    assert_eq!(seen, 69);
}

#[test]
fn every_file_is_part_of_the_build() {
    let files = source::rust_files(root(), &["src", "tests", "benches", "fuzz"]);
    assert_eq!(files.iter().filter(|file| file.is_root()).count(), source::ROOTS.len());
    let orphans: Vec<_> =
        files.iter().filter(|file| source::is_orphan(file, &files)).map(|file| &file.path).collect();
    println!("{} files", files.len());
    assert!(files.len() > 20, "{} files", files.len());
    assert!(orphans.is_empty(), "no `mod` declares {orphans:?}");

    let parent = File::new("src/token/mod.rs", "mod jwt; // mod claims;");
    assert!(source::is_orphan(&File::new("src/token/claims.rs", ""), std::slice::from_ref(&parent)));
    assert!(!source::is_orphan(&File::new("src/token/jwt.rs", ""), &[parent]));
}

#[test]
fn features_change_no_behaviour_and_lock_files_hold_no_addresses() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    assert!(!manifest.contains_key("features"), "a feature multiplies what has to be tested");
    let lock = read("tests/idp/package-lock.json");
    assert!(lock.contains("node_modules/oidc-provider"));
    assert!(!lock.contains("\"resolved\""), "run npm where tests/idp/.npmrc is read");
}
