//! What can be typed, continued: what an upstream is shown.

use super::definition::{choice, table};
use super::elsewhere::{Pem, Secret};
use super::read::List;
use crate::identity::Name;
use crate::upstream::credential::CredentialKind;

choice! {
    for CredentialKind {
        None = "none",
        Forward = "forward",
        ClientCredentials = "client_credentials",
        Exchange = "exchange",
    }
}

choice! {
    /// By what a token endpoint knows us.
    ClientAuthentication {
        /// A secret in `Authorization` (RFC 6749 §2.3.1).
        ClientSecretBasic = "client_secret_basic",
        /// The same in the form.
        ClientSecretPost = "client_secret_post",
        /// A JWT that is signed with a key of ours (RFC 7523).
        PrivateKeyJwt = "private_key_jwt",
        /// Our own certificate (RFC 8705).
        TlsClientAuth = "tls_client_auth",
    }
}

choice! {
    /// Who acts for the caller in an exchanged token.
    ActorToken {
        /// Nobody is named.
        None = "none",
        /// A token of our own, got by client credentials.
        ClientCredentials = "client_credentials",
    }
}

table! {
    /// What an upstream is shown in `Authorization`.
    Credential {
        /// `none`; `forward`, the caller's own token; `client_credentials`, a token of this proxy; `exchange`, one that
        /// the caller's is exchanged for (RFC 8693).
        kind: CredentialKind = required,
        /// The `[issuer.NAME]` that issues the token, whose discovery document names the token endpoint.
        issuer: Name,
        /// The URL of the token endpoint, where no issuer is named.
        token_endpoint: String,
        /// CA certificates that vouch for the token endpoint, as PEM. Default: the issuer's, else the system's.
        ca: Pem,
        /// Ask over plain HTTP, on loopback only. Default: the issuer's, else false.
        allow_http: bool,
        /// Ask at private addresses too. Default: the issuer's, else false.
        allow_private_addresses: bool,
        /// As whom this proxy asks.
        client_id: String,
        /// By what it is known. Default: `client_secret_basic` with a secret, `private_key_jwt` with a key.
        client_authentication: ClientAuthentication,
        /// Its secret. Watched.
        client_secret: Secret,
        /// Its key for `private_key_jwt`, as PEM: P-256 (ES256) or RSA (RS256). Watched.
        private_key: Pem,
        /// The passphrase of that key, where it is encrypted (PKCS #8).
        passphrase: Secret,
        /// The `kid` of that key at the issuer. Default: none is named.
        key_id: String,
        /// Scopes that are asked for. Default: none is named.
        scope: List<String>,
        /// For whom the token is to be, by name. Default: nobody is named.
        audience: List<String>,
        /// For whom the token is to be, as URIs (RFC 8707). Default: none is named.
        resource: List<String>,
        /// With `exchange`: who acts for the caller. Default: `none`.
        actor_token: ActorToken,
        /// With `exchange`: exchanged tokens that are remembered. Default: 10000.
        entries_max: u32,
    }
}
