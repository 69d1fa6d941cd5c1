//! placeholder
use super::settings::*;
use rustls::ClientConfig;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

pub fn trusting_nobody() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

pub fn settings(servers: &[&str], tls: &Arc<ClientConfig>) -> UpstreamSettings {
    UpstreamSettings {
        name: "orders".to_owned(),
        servers: servers
            .iter()
            .map(|uri| ServerSettings::parse(uri, NonZeroU32::MIN, tls).unwrap())
            .collect(),
        connect_timeout: Duration::from_secs(5),
        first_byte_timeout: Duration::from_secs(15),
        idle_timeout: Duration::from_secs(60),
        eject_after_failures: 5,
        limits: UpstreamLimits::default(),
    }
}
