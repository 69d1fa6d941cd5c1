//! Private keys under a passphrase, as OpenSSL writes them; and what of it the configuration says.

use countersign::tls::{CertificateSettings, OwnCertificate, PemSource};

use crate::world::World;
use crate::world::tls::{Tls, now};

const WRITTEN: &str = include_str!("encrypted_keys/openssl.txt");
pub const PASSPHRASE: &str = "correct horse";

/// What stands under a heading.
pub fn section(wanted: &str) -> &'static str {
    let sections = WRITTEN.split("\n== ").skip(1).map(|section| section.split_once('\n').unwrap());
    let mut found = sections.filter(|(heading, _)| heading.starts_with(wanted)).map(|(_, text)| text);
    found.next().unwrap_or_else(|| panic!("no {wanted}"))
}

#[test]
fn a_key_under_a_passphrase_is_read_or_the_reason_is_told() {
    let tls = Tls::new();
    let certificate = tls.file("own.pem", section("certificate"));
    let load = |scheme: &str, passphrase: Option<&str>| {
        let private_key = tls.file("own-key.pem", section(scheme));
        let passphrase = passphrase.map(|text| tls.file("passphrase", text));
        let settings = CertificateSettings { certificate: certificate.clone(), private_key, passphrase };
        OwnCertificate::load(&settings, now()).map_err(|error| error.to_string())
    };
    let mut seen = 0;
    for scheme in [
        "PBKDF2 with SHA-256, AES-256",
        "PBKDF2 with SHA-256, AES-128",
        "PBKDF2 with SHA-512, AES-192",
        "PBKDF2 with SHA-1, AES-256",
        "PBKDF2 with SHA-384, AES-256, 100000 iterations",
    ] {
        // As secrets are written, with a line's end or without.
        for passphrase in [PASSPHRASE, "correct horse\n", "correct horse\r\n"] {
            let own = load(scheme, Some(passphrase)).unwrap_or_else(|error| panic!("{scheme}: {error}"));
            assert_eq!(own.spiffe_id.unwrap().as_str(), "spiffe://shop.example/ns/prod/sa/orders");
        }
        // Blanks are part of a passphrase.
        for wrong in ["wrong", "correct horse ", " correct horse\n"] {
            let error = load(scheme, Some(wrong)).unwrap_err();
            assert!(error.ends_with("passphrase`: the passphrase does not open the private key"), "{error}");
        }
        let error = load(scheme, None).unwrap_err();
        assert!(error.ends_with("holds an encrypted private key, and no `passphrase` is given"), "{error}");
        seen += 1;
    }
    assert_eq!(seen, 5);
    let mut refused = 0;
    for (scheme, reason) in [
        ("not supported: triple DES", "a scheme that is not supported (1.2.840.113549.3.7)"),
        ("not supported: scrypt", "a scheme that is not supported (1.3.6.1.4.1.11591.4.11)"),
        ("not supported: PBES1", "a scheme that is not supported (1.2.840.113549.1.12.1.3)"),
        ("not supported: SHA-224", "a scheme that is not supported (1.2.840.113549.2.8)"),
        ("not supported: another mode", "a scheme that is not supported (2.16.840.1.101.3.4.1.44)"),
        ("before PKCS #8", "holds a private key that is encrypted as before PKCS #8"),
    ] {
        let error = load(scheme, Some(PASSPHRASE)).unwrap_err();
        assert!(error.contains(reason), "{scheme}: {error}");
        refused += 1;
    }
    assert_eq!(refused, 6);
}

/// One wrong passphrase in 256 leaves good padding by chance; what comes out is no key then.
#[test]
fn no_wrong_passphrase_opens_a_key() {
    let tls = Tls::new();
    let certificate = tls.file("own.pem", section("certificate"));
    let private_key = tls.file("own-key.pem", section("PBKDF2 with SHA-256, AES-256"));
    for at in 0..600 {
        let passphrase = Some(tls.file("passphrase", &format!("wrong {at}")));
        let (certificate, private_key) = (certificate.clone(), private_key.clone());
        let settings = CertificateSettings { certificate, private_key, passphrase };
        let error = OwnCertificate::load(&settings, now()).unwrap_err().to_string();
        assert!(error.ends_with("the passphrase does not open the private key"), "{at}: {error}");
    }
}

#[test]
fn a_mangled_key_is_refused() {
    let tls = Tls::new();
    let certificate = tls.file("own.pem", section("certificate"));
    let passphrase = tls.file("passphrase", PASSPHRASE);
    let text = section("PBKDF2 with SHA-256, AES-256");
    let mut seen = 0;
    for at in text.find('\n').unwrap() + 1..text.rfind("\n-----END").unwrap() {
        if text.as_bytes()[at] == b'\n' {
            continue;
        }
        let mut mangled = text.to_owned();
        mangled.replace_range(at..=at, if text.as_bytes()[at] == b'A' { "B" } else { "A" });
        let settings = CertificateSettings {
            certificate: certificate.clone(),
            private_key: PemSource::File(tls.dir.path().join("own-key.pem")),
            passphrase: Some(passphrase.clone()),
        };
        tls.file("own-key.pem", &mangled);
        // Some bits mean nothing: the last ones of the text, what a length is told by twice.
        seen += usize::from(OwnCertificate::load(&settings, now()).is_err());
    }
    assert!(seen > 300, "{seen}");
}

#[tokio::test]
async fn a_passphrase_is_told_where_it_is_wrong_and_watched() {
    let mut world = World::new().await;
    world.write("orders.pem", section("certificate"));
    world.write("orders-key.pem", section("PBKDF2 with SHA-256, AES-256"));
    world.write("passphrase", "wrong");
    world.identity = Some(IDENTITY.to_owned());
    world.configuration("");
    let error = world.try_load().unwrap_err();
    assert!(
        error.contains("error[bad_passphrase]: file `") && error.contains("countersign.toml:16:14"),
        "{error}"
    );
    world.write("passphrase", PASSPHRASE);
    let process = world.serve("").await;
    world.write("passphrase", "wrong again");
    process.log_says(0, "the present one stays").await;
    world.write("passphrase", &format!("{PASSPHRASE}\n"));
    process.log_says(0, "configuration loaded").await;
}

const IDENTITY: &str = r#"[identity]
certificate = "orders.pem"
private_key = "orders-key.pem"
passphrase = { file = "passphrase" }

[trust_domain."shop.example"]
ca = "shop-ca.pem"
"#;
