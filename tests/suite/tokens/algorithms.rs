//! Which algorithm and whose signature: what RFC 8725 §2.1 and §3.1 warn of.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{Case, Forge, b64, case};
use crate::world::signing::{KEYS, Key};

const REFUSED: &str = "token_algorithm_refused";
const BAD: &str = "token_bad_signature";
const UNKNOWN: &str = "token_key_unknown";

/// The order of the group of P-256 (SEC 2 §2.4.2).
const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

pub fn cases(forge: &Forge<'_>) -> Vec<Case> {
    [named(forge), confused(forge), crossed(forge), psychic(forge), spliced(forge)]
        .into_iter()
        .flatten()
        .collect()
}

fn key(name: &str) -> &'static Key {
    KEYS.iter().find(|key| key.kid == name).unwrap()
}

fn header(algorithm: &str, kid: &str) -> String {
    json!({"alg": algorithm, "typ": "at+jwt", "kid": kid}).to_string()
}

/// Algorithms that nobody may sign with here, without a signature and with a real one.
fn named(forge: &Forge<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    for algorithm in [
        "none",
        "None",
        "nOnE",
        "NONE",
        "none ",
        "",
        "HS256",
        "HS384",
        "HS512",
        "rs256",
        "RS256 ",
        "RS256\0",
        "es256",
        "ES512",
        "ES256K",
        "Ed25519",
        "RSA1_5",
        "RSA-OAEP",
        "dir",
        "A128KW",
        "PBES2-HS256+A128KW",
    ] {
        let signed = forge.under(&header(algorithm, "RS256"));
        let unsigned = format!("{}.", signed.rsplit_once('.').unwrap().0);
        cases.push(case(format!("{algorithm:?}, signed"), signed, REFUSED));
        cases.push(case(format!("{algorithm:?}, unsigned"), unsigned, REFUSED));
    }
    for text in ["256", "null", "true", "[]", r#"["RS256"]"#, r#"{"RS256":1}"#] {
        let header = format!(r#"{{"alg":{text},"kid":"RS256"}}"#);
        cases.push(case(format!("alg {text}"), forge.under(&header), "token_malformed"));
    }
    cases.push(case("no alg", forge.under(r#"{"kid":"RS256"}"#), "token_malformed"));
    // the issuer has such keys, but its `algorithms` does not list them
    for name in ["ES384", "RS512"] {
        cases.push(case(name, forge.issuer.token_by(key(name), json!({}), json!({})), REFUSED));
    }
    cases
}

/// A public key as the secret of a MAC, in every form that somebody may have it in.
fn confused(forge: &Forge<'_>) -> Vec<Case> {
    let mut cases = Vec::new();
    for name in ["RS256", "ES256", "EdDSA"] {
        let der = key(name).public_der();
        let lines = STANDARD.encode(&der);
        let lines: Vec<&str> =
            lines.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
        let jwk = key(name).jwk();
        let first = if name == "RS256" { "n" } else { "x" };
        let text = jwk[first].as_str().unwrap().to_owned();
        for (form, secret) in [
            ("PEM with a line end", format!("{pem}\n").into_bytes()),
            ("PEM", pem.clone().into_bytes()),
            ("PEM with CRLF", pem.replace('\n', "\r\n").into_bytes()),
            ("DER", der),
            ("JWK", jwk.to_string().into_bytes()),
            ("member of the JWK", text.clone().into_bytes()),
            ("its bytes", URL_SAFE_NO_PAD.decode(&text).unwrap()),
            ("nothing", Vec::new()),
        ] {
            let token = Key::confused(name, &secret).token(header("HS256", name), forge.claims.to_string());
            cases.push(case(format!("HS256 with {name} as {form}"), token, REFUSED));
        }
    }
    cases
}

/// A key is used with its own algorithm and no other.
fn crossed(forge: &Forge<'_>) -> Vec<Case> {
    let by = |signer: &str, algorithm: &str, kid: &str| {
        key(signer).token(header(algorithm, kid), forge.claims.to_string())
    };
    vec![
        case("PKCS #1 called PSS", by("RS256", "PS256", "RS256"), UNKNOWN),
        case("PSS called PKCS #1", by("PS256", "RS256", "PS256"), UNKNOWN),
        case("PSS under the other key's name", by("PS256", "RS256", "RS256"), BAD),
        case("ECDSA called RSA", by("ES256", "RS256", "ES256"), UNKNOWN),
        case("ECDSA under an RSA key's name", by("ES256", "RS256", "RS256"), BAD),
        case("P-384 called ES256", by("ES384", "ES256", "ES384"), UNKNOWN),
        case("P-384 under the P-256 key's name", by("ES384", "ES256", "ES256"), BAD),
        case("EdDSA called ES256", by("EdDSA", "ES256", "EdDSA"), UNKNOWN),
        case("EdDSA under the P-256 key's name", by("EdDSA", "ES256", "ES256"), BAD),
        case("RSA called EdDSA", by("RS256", "EdDSA", "RS256"), UNKNOWN),
        case("an empty kid", by("RS256", "RS256", ""), UNKNOWN),
    ]
}

/// Signatures that some verifiers took for those of any key.
fn psychic(forge: &Forge<'_>) -> Vec<Case> {
    let es256 = forge.issuer.token_by(key("ES256"), json!({}), json!({}));
    let (message, signature) = es256.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let (r, s) = signature.split_at(32);
    let order: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&ORDER[2 * at..2 * at + 2], 16).unwrap()).collect();
    let zero = [0; 32];
    let der = |half: &[u8]| [&[2, 33, 0], half].concat();
    let der = [&[0x30, 70], &der(r)[..], &der(s)].concat();
    let mut cases: Vec<Case> = [
        ("r and s zero", [zero, zero].concat()),
        ("r zero", [&zero, s].concat()),
        ("s zero", [r, &zero].concat()),
        ("r the order", [&order, s].concat()),
        ("s the order", [r, &order].concat()),
        ("r and s the order", [&order[..], &order].concat()),
        ("all ones", vec![0xff; 64]),
        ("DER", der),
        ("one byte short", signature[..63].to_vec()),
        ("one byte long", [&signature[..], &[0]].concat()),
        ("the size of P-384", [&[0; 16], r, &[0; 16], s].concat()),
        ("halves exchanged", [s, r].concat()),
        ("empty", Vec::new()),
    ]
    .into_iter()
    .map(|(what, forged)| case(format!("ES256, {what}"), format!("{message}.{}", b64(forged)), BAD))
    .collect();
    let eddsa = forge.issuer.token_by(key("EdDSA"), json!({}), json!({}));
    let (message, signature) = eddsa.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    // R the neutral element (RFC 8032 §5.1.4) and S zero: holds for a public key of small order
    let neutral = [&[1][..], &[0; 63]].concat();
    for (what, forged) in [
        ("zeros", vec![0; 64]),
        ("neutral", neutral),
        ("short", signature[..63].to_vec()),
        ("empty", Vec::new()),
    ] {
        cases.push(case(format!("EdDSA, {what}"), format!("{message}.{}", b64(forged)), BAD));
    }
    cases
}

/// A true signature, of something else.
fn spliced(forge: &Forge<'_>) -> Vec<Case> {
    let sound = forge.issuer.token(json!({}));
    let parts: Vec<&str> = sound.split('.').collect();
    let (header, claims) = (parts[0], parts[1]);
    let signature = URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
    let mut flipped = signature.clone();
    flipped[100] ^= 1;
    let others = forge.issuer.token(json!({"sub": "bob"}));
    let others = others.split('.').nth(1).unwrap();
    let stranger = Key::new("RS256", "RS256");
    let padded = pkcs1(format!("{header}.{claims}").as_bytes(), signature.len());
    let with = |bytes: &[u8]| format!("{header}.{claims}.{}", b64(bytes));
    // What it says is nobody's word: not even that it is wrong is told.
    let false_claims = [
        ("that is over", json!({"exp": 1})),
        ("that has not begun", json!({"nbf": 253_402_300_799_i64})),
        ("for somebody else", json!({"aud": "https://other.example"})),
        ("of another kind", json!({"token_use": "id"})),
        ("bound to another", json!({"cnf": {"x5t#S256": b64([7; 32])}})),
        ("without its claims", json!({"sub": null, "client_id": null})),
        ("that cannot be read", json!({"exp": "soon"})),
    ];
    let reordered: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let mut cases = vec![
        case("flipped", with(&flipped), BAD),
        case("short", with(&signature[1..]), BAD),
        case("zero before it", with(&[&[0], &signature[..]].concat()), BAD),
        case("zero behind it", with(&[&signature[..], &[0]].concat()), BAD),
        case("unsigned", with(&[]), BAD),
        case("the padded hash itself", with(&padded), BAD),
        case("another's claims", format!("{header}.{others}.{}", parts[2]), BAD),
        case(
            "the same claims written otherwise",
            format!("{header}.{}.{}", b64(format!(" {reordered}")), parts[2]),
            BAD,
        ),
        case("another key of this name", forge.issuer.token_by(&stranger, json!({}), json!({})), BAD),
    ];
    for (what, claims) in false_claims {
        let token = forge.issuer.token_by(&stranger, json!({}), claims);
        cases.push(case(format!("another key, over a token {what}"), token, BAD));
    }
    cases
}

/// EMSA-PKCS1-v1_5 (RFC 8017 §9.2): a signature under a key whose exponent is 1.
pub fn pkcs1(message: &[u8], size: usize) -> Vec<u8> {
    const SHA256_PREFIX: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
        0x04, 0x20,
    ];
    let hash = digest(&SHA256, message);
    let ones = vec![0xff; size - 3 - SHA256_PREFIX.len() - hash.as_ref().len()];
    [&[0, 1], &ones[..], &[0], &SHA256_PREFIX, hash.as_ref()].concat()
}
