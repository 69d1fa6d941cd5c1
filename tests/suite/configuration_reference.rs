//! `docs/configuration.md` names every table and key there is, with its meaning, as the schema has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use countersign::config;
use serde_json::{Map, Value};

use crate::configuration::resolved_sample;

/// The order in which the tables are told.
const TABLES: [&str; 22] = [
    "version",
    "proxy",
    "admin",
    "identity",
    "trust_domain",
    "listener",
    "trusted_hop",
    "issuer",
    "service",
    "role",
    "upstream",
    "assertion",
    "route",
    "allow",
    "deny",
    "require",
    "revocation",
    "audit",
    "limit",
    "cache",
    "log",
    "lint",
];
const MARK: &str =
    "<!-- From here on made from the schema; tests/suite/configuration_reference.rs says how. -->\n";

struct Reference {
    schema: Value,
    text: String,
    /// Definitions, and the headings they stand under.
    told: BTreeMap<String, String>,
}

impl Reference {
    fn new() -> Reference {
        let mut reference =
            Reference { schema: config::schema(), text: String::new(), told: BTreeMap::new() };
        for table in TABLES {
            let schema = reference.schema["properties"][table].clone();
            reference.table(table, &schema);
        }
        reference
    }

    /// Tells the table that `schema` is, if it is one that has a name, then those inside it.
    fn table(&mut self, path: &str, schema: &Value) {
        let about = schema["description"].as_str().unwrap_or_default();
        let keyed = &schema["additionalProperties"];
        let (heading, inside) = if schema["$ref"].is_string() {
            (format!("[{path}]"), schema)
        } else if keyed["$ref"].is_string() {
            (format!("[{path}.NAME]"), keyed)
        } else if schema["anyOf"][1]["items"]["$ref"].is_string() {
            (format!("[[{path}]]"), &schema["anyOf"][0])
        } else {
            return;
        };
        let Some(name) = inside["$ref"].as_str() else { return };
        let definition = self.schema.pointer(name.trim_start_matches('#')).unwrap().clone();
        writeln!(self.text, "\n### `{heading}`\n\n{about}\n").unwrap();
        if let Some(other) = self.told.get(name) {
            writeln!(self.text, "The keys are those of `{other}`.").unwrap();
            return;
        }
        self.told.insert(name.to_owned(), heading.clone());
        let empty = Map::new();
        let properties = definition["properties"].as_object().unwrap_or(&empty);
        writeln!(self.text, "| key | takes | means |\n| --- | --- | --- |").unwrap();
        for (key, schema) in properties {
            let required =
                definition["required"].as_array().is_some_and(|all| all.contains(&key.as_str().into()));
            let must = if required { "Mandatory. " } else { "" };
            let means = schema["description"].as_str().unwrap();
            writeln!(self.text, "| `{key}` | {} | {must}{} |", self.takes(schema), means.replace('|', "\\|"))
                .unwrap();
        }
        let path = heading.trim_matches(['[', ']']).to_owned();
        for (key, schema) in properties {
            self.table(&format!("{path}.{key}"), schema);
        }
    }

    /// What can be written as a value.
    fn takes(&self, schema: &Value) -> String {
        let text = |name: &str| schema[name].as_str();
        if let Some(words) = schema["enum"].as_array() {
            return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" ");
        }
        if let Some(any) = schema["anyOf"].as_array() {
            if any.iter().any(|one| one["type"] == "array") {
                return format!("{}, one or a list", self.takes(&any[0]));
            }
            if any.iter().any(|one| one["pattern"].is_string()) {
                return "a size".to_owned();
            }
            if any.iter().any(|one| one["oneOf"].is_array()) {
                return "PEM".to_owned();
            }
            return any.iter().map(|one| self.takes(one)).collect::<Vec<_>>().join(", or ");
        }
        match (text("type"), text("pattern"), text("format")) {
            _ if schema["oneOf"].is_array() => "a secret".to_owned(),
            (_, Some(pattern), _) if pattern.contains("(ms|") => "a duration".to_owned(),
            (_, _, Some("date")) => "a day".to_owned(),
            (Some("boolean"), ..) => "`true` `false`".to_owned(),
            (Some("integer"), ..) => "a number".to_owned(),
            (Some("object"), ..) => {
                format!("a table, name = {}", self.takes(&schema["additionalProperties"]))
            }
            (Some(_), ..) => "a text".to_owned(),
            (None, ..) if schema["type"].is_array() => "a text, a number or a boolean".to_owned(),
            (None, ..) => "a table, see below".to_owned(),
        }
    }
}

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md")).unwrap()
}

#[test]
fn the_reference_in_the_docs_is_the_schema() {
    let reference = Reference::new();
    let known: BTreeSet<&str> =
        reference.schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(known, BTreeSet::from(TABLES));
    let all = reference.schema["$defs"].as_object().unwrap().len();
    // `{ all = … }` of rules and `{ issuer, client }` of services are told with their keys
    assert_eq!(reference.told.len() + 2, all, "{:?}", reference.told);
    let document = document();
    let (_, written) = document.split_once(MARK).unwrap();
    if written != reference.text {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("configuration-reference.md");
        fs::write(&path, &reference.text).unwrap();
        panic!("docs/configuration.md is not up to date: put {} below its mark", path.display());
    }
}

#[test]
fn the_sample_stands_in_the_docs_byte_for_byte() {
    let sample = include_str!("../../config/sidecar.toml");
    assert!(document().contains(&format!("```toml\n{sample}```\n")));
}

/// `"64KiB"` and `65536`, `"5m"` and `"300s"` are the same.
fn amount(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "ms" | "B" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    Some(number * unit)
}

#[test]
fn defaults_in_the_docs_are_those_that_hold() {
    let schema = config::schema();
    let resolved = resolved_sample();
    let mut seen = 0;
    for (table, values) in [
        ("Limit", &resolved["limit"]),
        ("Cache", &resolved["cache"]),
        ("Upstream", &resolved["upstream"]["orders"]),
        ("Issuer", &resolved["issuer"]["corp"]),
    ] {
        for (key, schema) in schema["$defs"][table]["properties"].as_object().unwrap() {
            let stated =
                schema["description"].as_str().unwrap().split_once("Default: ").map(|(_, rest)| rest);
            let Some(stated) = stated.and_then(|rest| amount(rest.trim_end_matches('.'))) else { continue };
            let value = &values[key];
            let holds = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert_eq!(amount(&holds), Some(stated), "{table} {key}");
            seen += 1;
        }
    }
    assert_eq!(seen, 44);
}

/// What an editor shows beside a key: a sentence for each, wherever it stands.
#[test]
fn every_key_of_the_schema_is_described() {
    fn look(schema: &Value, place: &str, keys: &mut usize) {
        for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
            let told = inner["description"].as_str().unwrap_or_else(|| panic!("{place}.{key} says nothing"));
            let sentence = told.starts_with(|c: char| c.is_uppercase() || c == '`') && told.ends_with('.');
            assert!(sentence && told.len() > "A.".len(), "{place}.{key}: {told}");
            *keys += 1;
        }
        let children = schema.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value));
        let children = children.chain(schema.as_array().into_iter().flatten().map(|value| ("[]", value)));
        children.for_each(|(key, inner)| look(inner, &format!("{place}.{key}"), keys));
    }
    let of_tests =
        Command::new(env!("CARGO_BIN_EXE_countersign")).args(["schema", "--test"]).output().unwrap();
    for (schema, at_least) in
        [(config::schema(), 150), (serde_json::from_slice(&of_tests.stdout).unwrap(), 30)]
    {
        let mut keys = 0;
        look(&schema, "", &mut keys);
        println!("{}: {keys} keys", schema["title"]);
        assert!(keys > at_least, "{keys}");
    }
}

/// What the schema says of every key of a table that stands in a file.
fn assert_in_schema(schema: &Value, root: &Value, table: &toml::Table) -> usize {
    let schema = match schema["$ref"].as_str() {
        Some(name) => root.pointer(name.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let mut seen = 0;
    for (key, value) in table {
        let keyed = schema.get("additionalProperties").filter(|any| any.is_object());
        let of_key = schema["properties"].get(key).or(keyed).unwrap_or_else(|| panic!("`{key}` in {schema}"));
        seen += 1;
        match value {
            toml::Value::Table(inner) if of_key.get("anyOf").is_none() => {
                seen += assert_in_schema(of_key, root, inner);
            }
            toml::Value::Array(items) => {
                let item = &of_key["anyOf"][0];
                let tables = items.iter().filter_map(toml::Value::as_table);
                seen += tables.map(|inner| assert_in_schema(item, root, inner)).sum::<usize>();
            }
            _ => {}
        }
    }
    seen
}

#[test]
fn the_schema_knows_every_key_of_the_sample() {
    let schema = config::schema();
    let seen = assert_in_schema(
        &schema,
        &schema,
        &toml::from_str(include_str!("../../config/sidecar.toml")).unwrap(),
    );
    assert!(seen > 100, "{seen}");
    assert_eq!(schema["required"], serde_json::json!(["version"]));
    assert_eq!(schema["additionalProperties"], false);
}
