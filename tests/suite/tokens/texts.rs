//! Texts that two readers could read differently, or that are more than a token may be.

use serde_json::json;

use super::{Case, Forge, b64, case};
use crate::world::signing::KEYS;

const MALFORMED: &str = "token_malformed";
const LIMIT: &str = "limit_exceeded";

pub fn cases(forge: &Forge<'_>) -> Vec<Case> {
    [forms(forge), letters(forge), json_texts(forge), sizes(forge)].into_iter().flatten().collect()
}

/// Another number of parts, or another serialization (RFC 7515 §7.2, RFC 7516 §7).
fn forms(forge: &Forge<'_>) -> Vec<Case> {
    let sound = forge.issuer.token(json!({}));
    let parts: Vec<&str> = sound.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    let members = json!({"protected": header, "payload": claims, "signature": signature});
    let list = json!({"payload": claims, "signatures": [{"protected": header, "signature": signature}]});
    let nested = KEYS[0].token(r#"{"alg":"RS256","kid":"RS256","cty":"JWT"}"#, &sound);
    // a comma would be where the next credential begins
    let several = [("JSON, flattened", members), ("JSON, general", list)];
    let several = several.map(|(what, json)| case(what, json.to_string(), "request_malformed"));
    let single = [
        ("opaque", "2YotnFZFEjr1zCsicMWpAA".to_owned()),
        ("two parts", format!("{header}.{claims}")),
        ("four parts", format!("{sound}.AA")),
        ("JWE", format!("{header}.AA.AA.AA.AA")),
        ("JWE, direct", format!("{}..AA.AA.AA", b64(r#"{"alg":"dir","enc":"A128GCM"}"#))),
        ("six parts", format!("{header}.AA.AA.AA.AA.AA")),
        ("dot before", format!(".{sound}")),
        ("dot behind", format!("{sound}.")),
        ("two dots", format!("{header}..{claims}.{signature}")),
        ("no claims", format!("{header}..{signature}")),
        ("no header", format!(".{claims}.{signature}")),
        ("dots alone", "..".to_owned()),
        ("a token in a token", nested),
        ("junk behind a space", format!("{sound} junk")),
        ("another behind a space", format!("{sound} {sound}")),
        ("a space behind it", format!("{sound}  x")),
        ("a space in it", sound.replacen('.', ". ", 1)),
        ("a tab in it", sound.replacen('.', ".\t", 1)),
        ("in quotes", format!("\"{sound}\"")),
        ("with a semicolon", format!("{sound};v=1")),
        ("`Bearer` twice", format!("Bearer {sound}")),
    ];
    single.map(|(what, token)| case(what, token, MALFORMED)).into_iter().chain(several).collect()
}

/// Base64url that is not canonical (RFC 4648 §3.5, RFC 7515 §2).
fn letters(forge: &Forge<'_>) -> Vec<Case> {
    // of three lengths, so that every part once has bits, or padding, to spare
    let mut cases = Vec::new();
    for pad in ["a", "aa", "aaa"] {
        let header = json!({"alg": "RS256", "kid": "RS256", "cty": pad}).to_string();
        let token = KEYS[0].token(header, forge.claims_and("x", &format!(r#""x":"{pad}""#)));
        let parts: Vec<&str> = token.split('.').collect();
        for (at, part) in parts.iter().enumerate() {
            let with = |text: String| {
                let mut parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
                parts[at] = text;
                parts.join(".")
            };
            let spare = [0, 0, 4, 2][part.len() % 4];
            if spare > 0 {
                cases.push(case(format!("bits behind part {at}, {pad}"), with(more_bits(part)), MALFORMED));
                let padded = format!("{part}{}", "=".repeat(4 - part.len() % 4));
                cases.push(case(format!("padding behind part {at}, {pad}"), with(padded), MALFORMED));
            }
        }
    }
    let token = forge.over(forge.claims_and("x", r#""x":"???>>>~~~""#));
    let (message, signature) = token.rsplit_once('.').unwrap();
    assert!(message.contains(['-', '_']), "so that there is something to replace");
    cases.push(case(
        "letters of plain base64",
        message.replace('-', "+").replace('_', "/") + "." + signature,
        MALFORMED,
    ));
    cases.push(case("a percent sign", format!("{message}%2E{signature}"), MALFORMED));
    cases.push(case("one letter of a byte", format!("{message}.A"), MALFORMED));
    cases.push(case("a letter of no alphabet", format!("{message}.A~AA"), MALFORMED));
    cases
}

/// The same bytes, in letters whose spare bits are not zero.
fn more_bits(part: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = part.split_at(part.len() - 1);
    let at = LETTERS.iter().position(|letter| *letter == last.as_bytes()[0]).unwrap();
    format!("{rest}{}", char::from(LETTERS[at | 1]))
}

/// Claims that are no JSON object with one reading.
fn json_texts(forge: &Forge<'_>) -> Vec<Case> {
    let sound = forge.claims.to_string();
    let and = |more: &str| forge.claims_and("x", more);
    let mut cases = Vec::new();
    for (what, claims) in [
        ("a member twice", and(r#""aud":"x""#)),
        ("a member twice, equal", and(r#""x":1,"x":1"#)),
        ("a member twice, once escaped", and(r#""x":1,"\u0078":1"#)),
        ("a member twice, inside", and(r#""x":{"y":[{"z":1,"z":2}]}"#)),
        ("a list", "[]".to_owned()),
        ("a list of claims", format!("[{sound}]")),
        ("a string", "\"x\"".to_owned()),
        ("null", "null".to_owned()),
        ("a number", "1".to_owned()),
        ("nothing", " ".to_owned()),
        ("two objects", format!("{sound}{sound}")),
        ("text behind", format!("{sound}x")),
        ("NUL behind", format!("{sound}\0")),
        ("byte order mark", format!("\u{feff}{sound}")),
        ("comma at the end", and(r#""x":1,"#)),
        ("comment", and(r#""x":1/**/"#)),
        ("single quotes", and("'x':1")),
        ("no quotes", and("x:1")),
        ("NaN", and(r#""x":NaN"#)),
        ("infinity", and(r#""x":1e999"#)),
        ("leading zero", and(r#""x":01"#)),
        ("hexadecimal", and(r#""x":0x1"#)),
        ("lone surrogate", and(r#""x":"\ud800""#)),
        ("surrogates exchanged", and(r#""x":"\udc00\ud800""#)),
        ("control character", and("\"x\":\"\n\"")),
        ("unfinished", sound[..sound.len() - 1].to_owned()),
    ] {
        cases.push(case(what, forge.over(claims), MALFORMED));
    }
    let bytes = |more: &[u8]| [sound.trim_end_matches('}').as_bytes(), b",\"x\":\"", more, b"\"}"].concat();
    for (what, more) in [
        ("no UTF-8", &b"\xff"[..]),
        ("overlong UTF-8", b"\xc0\xaf"),
        ("a surrogate in UTF-8", b"\xed\xa0\x80"),
        ("cut-off UTF-8", b"\xe2\x82"),
    ] {
        cases.push(case(what, forge.over(bytes(more)), MALFORMED));
    }
    let utf_16: Vec<u8> = sound.encode_utf16().flat_map(u16::to_le_bytes).collect();
    cases.push(case("UTF-16", forge.over(utf_16), MALFORMED));
    cases
}

/// More than a token may be.
fn sizes(forge: &Forge<'_>) -> Vec<Case> {
    let nested = |open: &str, close: &str, depth: usize| {
        forge.over(forge.claims_and("x", &format!(r#""x":{}1{}"#, open.repeat(depth), close.repeat(depth))))
    };
    let unclosed = forge.over(format!("{{\"x\":{}", "[".repeat(11_000)));
    let many = forge.over(forge.claims_and("x", &format!(r#""x":[{}0]"#, "0,".repeat(5000))));
    let header = json!({"alg": "RS256", "kid": "RS256", "x5t": "x".repeat(16 << 10)}).to_string();
    vec![
        case("32 lists", nested("[", "]", 32), LIMIT),
        case("65 lists", nested("[", "]", 65), LIMIT),
        case("65 objects", nested("{\"a\":", "}", 65), LIMIT),
        case("1,000 lists", nested("[", "]", 1000), LIMIT),
        case("5,500 lists", nested("[", "]", 5500), LIMIT),
        case("11,000 lists that never end", unclosed, LIMIT),
        case("5,001 values", many, LIMIT),
        case("a long header", forge.under(&header), LIMIT),
        case("long claims", forge.over(forge.claims_and("x", &format!(r#""x":"{}""#, "x".repeat(12 << 10)))), LIMIT),
        case("one letter, 16 KiB and one", "A".repeat((16 << 10) + 1), LIMIT),
        case("257 scopes", forge.over(forge.claims_and("scope", &format!(r#""scope":"{}""#, "a ".repeat(257)))), LIMIT),
        case("5 actors", forge.over(forge.claims_and("act", r#""act":{"sub":"a","act":{"sub":"a","act":{"sub":"a","act":{"sub":"a","act":{"sub":"a"}}}}}"#)), LIMIT),
    ]
}
