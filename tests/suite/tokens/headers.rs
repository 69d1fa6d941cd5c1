//! What a token's header may not ask for: keys of its own, extensions, other types of token.

use serde_json::{Value, json};

use super::{Case, Forge, b64, case};
use crate::world::signing::{KEYS, Key};

const MALFORMED: &str = "token_malformed";

pub fn cases(forge: &Forge<'_>) -> Vec<Case> {
    [brought_keys(forge), key_ids(forge), extensions(forge), types(forge)].into_iter().flatten().collect()
}

/// The header of a sound token by its first key, with `more` laid over it.
fn header(more: Value) -> Value {
    let mut header = json!({"alg": "RS256", "typ": "at+jwt", "kid": "RS256"});
    header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    header
}

/// RFC 7515 §4.1.2 to §4.1.6: signed by the attacker's own key, with the real key's name and without.
fn brought_keys(forge: &Forge<'_>) -> Vec<Case> {
    let own = Key::new("RS256", "RS256");
    let der = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, own.public_der());
    let mut cases = Vec::new();
    for (name, value) in [
        ("jwk", own.jwk()),
        ("jwk", json!({"kty": "oct", "k": "AAAA"})),
        ("jwk", json!({})),
        ("jku", json!(forge.trap)),
        ("jku", json!(forge.issuer.jwks_url())),
        ("x5u", json!(forge.trap)),
        ("x5c", json!([der])),
        ("x5c", json!([])),
    ] {
        for kid in ["RS256", "mine"] {
            let header = header(json!({name: value, "kid": kid})).to_string();
            let token = own.token(&header, forge.claims.to_string());
            cases.push(case(format!("{name} and kid {kid}"), token, MALFORMED));
        }
        let sound = forge.under(&header(json!({name: value})).to_string());
        cases.push(case(format!("{name}, though the signature is sound"), sound, MALFORMED));
    }
    cases
}

/// A `kid` is compared with those of the issuer's keys; it is no path, query, address or pattern.
fn key_ids(forge: &Forge<'_>) -> Vec<Case> {
    let long = "k".repeat(4096);
    let mut cases = Vec::new();
    for kid in [
        "../../../../../../dev/null",
        "/proc/self/environ",
        "file:///etc/passwd",
        "' OR '1'='1",
        "RS256'; DROP TABLE keys; --",
        "*",
        "RS*",
        ".*",
        "RS256\0",
        "RS256 ",
        " RS256",
        "rs256",
        "RS256\r\nx: y",
        "\u{ff32}\u{ff33}256",
        "${jndi:ldap://127.0.0.1/a}",
        "{{7*7}}",
        &forge.trap,
        &long,
    ] {
        let token = forge.under(&header(json!({"kid": kid})).to_string());
        cases.push(case(format!("kid {:.40?}", kid), token, "token_key_unknown"));
    }
    for kid in [json!(7), json!(true), json!(null), json!(["RS256"]), json!({"RS256": 1})] {
        let token = forge.under(&header(json!({"kid": kid})).to_string());
        cases.push(case(format!("kid {kid}"), token, MALFORMED));
    }
    cases
}

/// RFC 7515 §4.1.11, RFC 7797, RFC 7516: each changes what a signature means to who knows it.
fn extensions(forge: &Forge<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    for more in [
        json!({"crit": ["exp"]}),
        json!({"crit": ["exp"], "exp": 1}),
        json!({"crit": []}),
        json!({"crit": "exp"}),
        json!({"crit": null}),
        json!({"crit": ["crit"]}),
        json!({"crit": ["alg"]}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"crit": ["b64"], "b64": true}),
        json!({"b64": false}),
        json!({"zip": "DEF"}),
        json!({"enc": "A256GCM"}),
        json!({"nonce": "n"}),
        json!({"iss": "x"}),
        json!({"": 1}),
        json!({"ALG": "none"}),
        json!({"x5t": 1}),
        json!({"cty": 1}),
    ] {
        cases.push(case(&more, forge.under(&header(more.clone()).to_string()), MALFORMED));
    }
    for text in [
        r#"{"alg":"RS256","kid":"RS256","alg":"none"}"#,
        r#"{"alg":"none","kid":"RS256","alg":"RS256"}"#,
        r#"{"alg":"RS256","kid":"RS256","kid":"mine"}"#,
        r#"{"alg":"RS256","kid":"RS256","\u0061lg":"none"}"#,
        r#"{"alg":"RS256","kid":"RS256","x5t":{"a":1,"a":1}}"#,
    ] {
        cases.push(case(text, forge.under(text), MALFORMED));
    }
    // RFC 7797: the claims as they are
    let header = header(json!({"b64": false, "crit": ["b64"]})).to_string();
    let claims = forge.claims.to_string();
    let signature = KEYS[0].sign(format!("{}.{claims}", b64(&header)).as_bytes());
    cases.push(case("detached", format!("{}..{}", b64(&header), b64(signature)), MALFORMED));
    cases
}

/// RFC 8725 §3.11: a token of another kind, by the same issuer and key.
fn types(forge: &Forge<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    for typ in ["logout+jwt", "dpop+jwt", "secevent+jwt", "id_token+jwt", "JOSE", "", "at+jwt;x=y"] {
        let token = forge.under(&header(json!({"typ": typ})).to_string());
        cases.push(case(format!("typ {typ:?}"), token, "token_type_refused"));
    }
    for typ in [json!(1), json!(null), json!(["at+jwt"])] {
        let token = forge.under(&header(json!({"typ": typ})).to_string());
        cases.push(case(format!("typ {typ}"), token, MALFORMED));
    }
    cases
}
