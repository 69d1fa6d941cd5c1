//! What can be typed under `[identity]`: where our own certificate comes from.

use super::definition::{choice, table};
use super::elsewhere::{Pem, Secret, UnixSocket};
use super::read::List;
use super::value::Timeout;
use crate::identity::SpiffeId;

choice! {
    /// Where our own certificate comes from.
    IdentitySource {
        /// From `certificate` and `private_key`.
        Files = "files",
        /// From the SPIFFE Workload API, with the CAs of trust domains that name none.
        WorkloadApi = "workload_api",
        /// From a Consul agent, with the CAs of the cluster's trust domain.
        Consul = "consul",
        /// From AWS Private CA, with the root of its chain as CA of our trust domain.
        AwsPrivateCa = "aws_private_ca",
    }
}

table! {
    /// Our own certificate, presented to clients and to upstreams.
    Identity {
        /// Where it comes from. Default: `files`.
        source: IdentitySource,
        /// The certificate and its chain, leaf first, as PEM. Watched: a new one is served without
        /// a restart, a bad one keeps the last good.
        certificate: Pem,
        /// Its private key as PEM.
        private_key: Pem,
        /// The passphrase of the private key, where that is encrypted (PKCS #8).
        passphrase: Secret,
        /// With `workload_api`: its socket, as `unix:/run/spire/sockets/agent.sock`. Default: what the variable
        /// `SPIFFE_ENDPOINT_SOCKET` says.
        workload_api: UnixSocket,
        /// With `workload_api`: which SVID is ours, by its hint, where there are several. Default: the first.
        hint: String,
        /// With `consul`: the agent, and who we are in its cluster.
        consul: Consul,
        /// With `aws_private_ca`: the CA, and what it is asked for.
        aws_private_ca: AwsPrivateCa,
    }
}

table! {
    /// The Consul agent that gives our certificate, and who we are in its cluster.
    Consul {
        /// The service whose certificate is ours.
        service: String = required,
        /// Where its HTTP API is: `https://host:port`, or `http://` at a loopback address. Default:
        /// `http://127.0.0.1:8500`.
        address: String,
        /// CA certificates that vouch for the agent, as PEM. Default: those of the system.
        ca: Pem,
        /// The ACL token to ask with; a new one is taken without a restart. It needs `service:write` for the service.
        /// Default: none.
        token: Secret,
        /// Gets an ACL token in the place of `token`, and another when that is refused.
        login: ConsulLogin,
        /// The admin partition of the service. Default: the agent's.
        partition: String,
        /// The namespace of the service. Default: the token's.
        namespace: String,
        /// The datacenter of the service. Default: the agent's.
        datacenter: String,
    }
}

table! {
    /// A login that gives an ACL token.
    ConsulLogin {
        /// The auth method, by its name.
        auth_method: String = required,
        /// What is shown to it, as a JWT; read anew for each login.
        bearer_token: Secret = required,
        /// The namespace of the auth method, which need not be that of the service. Default: the agent's.
        namespace: String,
    }
}

choice! {
    /// How AWS Private CA signs; the family is that of the CA's key.
    SigningAlgorithm {
        Sha256Ecdsa = "SHA256WITHECDSA",
        Sha384Ecdsa = "SHA384WITHECDSA",
        Sha512Ecdsa = "SHA512WITHECDSA",
        Sha256Rsa = "SHA256WITHRSA",
        Sha384Rsa = "SHA384WITHRSA",
        Sha512Rsa = "SHA512WITHRSA",
    }
}

table! {
    /// The CA in AWS Private CA that issues our certificate, and what it is asked for.
    AwsPrivateCa {
        /// The CA; its region is read from this.
        certificate_authority_arn: String = required,
        /// Who we are: the URI of the certificate.
        spiffe_id: SpiffeId = required,
        /// Names of the certificate beside that, for clients that know no SPIFFE IDs. Default: none.
        dns: List<String>,
        /// How it signs; the family is that of the CA's key. Default: `SHA256WITHECDSA`.
        signing_algorithm: SigningAlgorithm,
        /// How long a certificate is good for; it is renewed after two thirds of that. Default: 24h.
        validity: Timeout,
        /// The template; it must pass the names of the request on. Default: `EndEntityCertificate/V1`, which does.
        template_arn: String,
        /// Where its API is: `https://host`, as of an endpoint in a VPC, or `http://` at a loopback address. Default:
        /// that of the region.
        endpoint: String,
    }
}
