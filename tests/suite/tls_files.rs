//! Files that cannot be used, told apart; and files that change.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::cli::mint::{LeafSpec, Validity};
use countersign::tls::reload::Watch;
use countersign::tls::{CertificateSettings, OwnCertificate, PemSource, Trust, TrustDomainSettings};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::der_parser::parse_der;

use crate::world::soon;
use crate::world::tls::{GOOD, Tls, good, hours, now};

#[test]
fn our_own_certificate_and_key_must_be_there_fit_and_be_valid() {
    let tls = Tls::new();
    let (own, other) = (tls.shop.issue(&good()).unwrap(), tls.shop.issue(&good()).unwrap());
    let past = Validity { from: now().minus(hours(48)), to: now().minus(hours(1)) };
    let future = Validity { from: now().plus(hours(1)), to: now().plus(hours(48)) };
    let dated = |validity| tls.shop.issue(&LeafSpec { validity, ..good() }).unwrap();
    let (expired, early) = (dated(past), dated(future));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let missing = PemSource::File(tls.dir.path().join("missing.pem"));
    let unset = PemSource::Env("COUNTERSIGN_TEST_IS_NOT_SET".into());
    let garbage = PemSource::Env("PATH".into());
    let folder = PemSource::File(tls.dir.path().to_owned());
    let file = |name: &str, text: &str| tls.file(name, text);
    let sized = |name: &str, bytes: u64| {
        let path = tls.dir.path().join(name);
        std::fs::File::create(&path).and_then(|file| file.set_len(bytes)).unwrap();
        PemSource::File(path)
    };
    let good_key = file("good-key.pem", &own.key);
    let good_chain = file("good.pem", &own.chain);

    let cases = [
        (missing.clone(), good_key.clone(), "missing.pem` does not exist"),
        (good_chain.clone(), missing, "missing.pem` does not exist"),
        (unset, good_key.clone(), "environment variable `COUNTERSIGN_TEST_IS_NOT_SET` does not exist"),
        (garbage, good_key.clone(), "`PATH` is not PEM; it should hold `-----BEGIN CERTIFICATE-----`"),
        (folder, good_key.clone(), "cannot be read"),
        (file("empty.pem", " \n"), good_key.clone(), "empty.pem` is empty"),
        (good_chain.clone(), file("empty-key.pem", ""), "empty-key.pem` is empty"),
        (file("garbage.pem", "hello"), good_key.clone(), "garbage.pem` is not PEM"),
        (sized("largest.pem", 64 << 20), good_key.clone(), "largest.pem` is not PEM"),
        (sized("larger.pem", (64 << 20) + 1), good_key.clone(), "larger.pem` is larger than 67108864 bytes"),
        (file("cut.pem", &own.chain[..200]), good_key.clone(), "cut.pem` is not PEM"),
        (file("nonsense.pem", nonsense), good_key.clone(), "does not parse"),
        (good_key.clone(), good_key.clone(), "no `-----BEGIN CERTIFICATE-----`"),
        (good_chain.clone(), good_chain.clone(), "no `-----BEGIN PRIVATE KEY-----`"),
        (good_chain.clone(), file("two.pem", &(own.key.clone() + &other.key)), "holds 2 private keys"),
        (
            good_chain.clone(),
            file("encrypted.pem", encrypted),
            "an encrypted private key, and no `passphrase`",
        ),
        (good_chain.clone(), file("both.pem", &(own.key.clone() + encrypted)), "holds 2 private keys"),
        (good_chain.clone(), file("no-key.pem", no_key), "of a kind that is not supported"),
        (good_chain.clone(), file("other-key.pem", &other.key), "does not fit the first certificate"),
        (file("expired.pem", &expired.chain), file("e.pem", &expired.key), "expired at 2027-01-15T11"),
        (file("early.pem", &early.chain), file("f.pem", &early.key), "not valid before 2027-01-15T13"),
    ];
    let mut seen = 0;
    for (certificate, private_key, reason) in cases {
        let settings = CertificateSettings { certificate, private_key, passphrase: None };
        let error = OwnCertificate::load(&settings, now()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error} lacks {reason}");
        seen += 1;
    }
    assert_eq!(seen, 21);

    // with its CA sent along; and from the first moment that it is valid
    let with_ca = file("with-ca.pem", &(own.chain.clone() + &tls.shop.pem()));
    for (certificate, at) in
        [(good_chain, now()), (with_ca, now()), (file("again.pem", &own.chain), good().validity.from)]
    {
        let settings = CertificateSettings { certificate, private_key: good_key.clone(), passphrase: None };
        let loaded = OwnCertificate::load(&settings, at).unwrap();
        assert_eq!(loaded.spiffe_id.unwrap().as_str(), GOOD);
        assert_eq!(loaded.not_after, good().validity.to);
    }
}

/// PKCS #8 holds the older form of a key in an octet string (RFC 5958 §2).
#[test]
fn a_key_may_have_an_older_form() {
    let tls = Tls::new();
    let mut seen = 0;
    for (key, label) in [
        (&rcgen::PKCS_RSA_SHA256, "RSA PRIVATE KEY"), // PKCS #1, RFC 8017 §A.1.2
        (&rcgen::PKCS_ECDSA_P256_SHA256, "EC PRIVATE KEY"), // SEC 1, RFC 5915 §3
        (&rcgen::PKCS_ECDSA_P384_SHA384, "EC PRIVATE KEY"),
    ] {
        let own = tls.shop.issue(&LeafSpec { key, ..good() }).unwrap();
        let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        let (_, whole) = parse_der(pkcs8.secret_pkcs8_der()).unwrap();
        let older = STANDARD.encode(whole.as_sequence().unwrap()[2].as_slice().unwrap());
        let older = format!("-----BEGIN {label}-----\n{older}\n-----END {label}-----\n");
        let (certificate, private_key) = (tls.file("own.pem", &own.chain), tls.file("older.pem", &older));
        let loaded =
            OwnCertificate::load(&CertificateSettings { certificate, private_key, passphrase: None }, now())
                .unwrap();
        assert_eq!(loaded.spiffe_id.unwrap().as_str(), GOOD, "{label}");
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn cas_and_revocation_lists_must_be_there_and_be_what_they_are() {
    let tls = Tls::new();
    let leaf = tls.shop.issue(&good()).unwrap();
    let crl = tls.shop.crl(&[], good().validity).unwrap();
    let bad_crl = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let missing = PemSource::File(tls.dir.path().join("missing.pem"));
    let ca = tls.file("ca.pem", &tls.shop.pem());
    let file = |name: &str, text: &str| tls.file(name, text);
    let cases = [
        (missing.clone(), None, "does not exist"),
        (file("empty.pem", ""), None, "is empty"),
        (file("garbage.pem", "hello"), None, "is not PEM"),
        (file("crl-as-ca.pem", &crl), None, "no `-----BEGIN CERTIFICATE-----`"),
        (file("leaf.pem", &leaf.chain), None, "not a CA's"),
        (file("mixed.pem", &(tls.shop.pem() + &leaf.chain)), None, "not a CA's"),
        (ca.clone(), Some(missing), "does not exist"),
        (ca.clone(), Some(file("empty.crl", "")), "is empty"),
        (ca.clone(), Some(file("garbage.crl", "hello")), "is not PEM"),
        (ca.clone(), Some(ca.clone()), "no `-----BEGIN X509 CRL-----`"),
        (ca, Some(file("bad.crl", bad_crl)), "does not parse"),
    ];
    let mut seen = 0;
    for (ca, crl, reason) in cases {
        let name = "shop.example".parse().unwrap();
        let settings = TrustDomainSettings { name, ca: Some(ca), crl, allow_dns_names: false };
        let error = Trust::load(&[settings]).unwrap_err().to_string();
        assert!(error.contains(reason), "{error} lacks {reason}");
        seen += 1;
    }
    assert_eq!(seen, 11);
}

#[tokio::test]
async fn a_file_that_is_written_replaced_or_swapped_by_its_link_is_noticed() {
    let tls = Tls::new();
    let root = tls.dir.path();
    let (plain, linked, unrelated) = (root.join("a.pem"), root.join("b.pem"), root.join("audit.log"));
    std::fs::write(&plain, "one").unwrap();
    // As Kubernetes mounts a secret: the file links into `..data`, which links to a dated folder.
    for (folder, text) in [("..1", "one"), ("..2", "other")] {
        std::fs::create_dir(root.join(folder)).unwrap();
        std::fs::write(root.join(folder).join("b.pem"), text).unwrap();
    }
    std::os::unix::fs::symlink("..1", root.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/b.pem", &linked).unwrap();
    let absent = root.join("later.pem");
    let mut watch = Watch::new([plain.clone(), linked, absent.clone()]).unwrap();

    std::fs::write(&plain, "three").unwrap();
    watch.changed().await;
    std::fs::write(root.join("new"), "replaced").unwrap();
    std::fs::rename(root.join("new"), &plain).unwrap();
    watch.changed().await;
    std::os::unix::fs::symlink("..2", root.join("..tmp")).unwrap();
    std::fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
    watch.changed().await;
    std::fs::write(&absent, "here").unwrap();
    watch.changed().await;
    // A log beside them is no change: the next one that is reported is the removal.
    std::fs::write(&unrelated, "line").unwrap();
    std::fs::remove_file(&plain).unwrap();
    watch.changed().await;
}

#[tokio::test]
async fn a_file_that_comes_into_a_watched_folder_is_noticed() {
    let tls = Tls::new();
    let folder = tls.dir.path().join("conf.d");
    std::fs::create_dir(&folder).unwrap();
    let mut watch = Watch::new([folder.clone()]).unwrap();
    for text in ["first", "and changed"] {
        std::fs::write(folder.join("10-routes.toml"), text).unwrap();
        soon("a change in the folder", watch.changed()).await;
    }
}
