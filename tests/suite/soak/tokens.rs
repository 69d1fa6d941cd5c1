//! The callers' tokens of a soak, sound and not, made anew as they age.

use http::HeaderValue;
use serde_json::{Value, json};

use super::kinds::Bearer;
use crate::world::issuer::Issuer;
use crate::world::signing::{Key, forged};

const CALLERS: usize = 20;

pub struct Tokens {
    /// That which signs now.
    pub key: Key,
    stranger: Key,
    good: Vec<String>,
    agent: String,
    expired: String,
    wrong_scope: String,
    wrong_client: String,
    other_issuer: String,
    url: String,
    now: i64,
}

impl Tokens {
    pub fn new(issuer: &Issuer) -> Tokens {
        let key = Key::new("soak-0", "ES256");
        issuer.publish(std::slice::from_ref(&key));
        let mut tokens = Tokens {
            key,
            stranger: Key::new("stranger", "ES256"),
            good: Vec::new(),
            agent: String::new(),
            expired: String::new(),
            wrong_scope: String::new(),
            wrong_client: String::new(),
            other_issuer: String::new(),
            url: issuer.url.clone(),
            now: 0,
        };
        tokens.renew(issuer);
        tokens
    }

    pub fn renew(&mut self, issuer: &Issuer) {
        let now = issuer.clock.now().unix_seconds();
        let sign = |claims: Value| issuer.token_by(&self.key, json!({}), claims);
        self.good = (0..CALLERS).map(|at| sign(json!({"sub": format!("caller-{at}")}))).collect();
        self.agent = sign(json!({"client_id": "assistant-7", "uid": "alice"}));
        self.expired = sign(json!({"iat": now - 7200, "exp": now - 3600}));
        self.wrong_scope = sign(json!({"scope": "profile"}));
        self.wrong_client = sign(json!({"client_id": "somebody-else"}));
        self.other_issuer = sign(json!({"iss": "https://elsewhere.example"}));
        self.now = now;
    }

    /// A token of its own each time, under a key that nobody has heard of.
    fn unknown_key(&self) -> String {
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": format!("nobody-{}", fastrand::u64(..))});
        let claims = json!({"iss": self.url, "sub": "alice", "iat": self.now, "exp": self.now + 300});
        self.stranger.token(header.to_string(), claims.to_string())
    }

    /// The header's value; for [`Bearer::Absent`] there is none to ask for.
    pub fn bearer(&self, bearer: Bearer) -> HeaderValue {
        let good = &self.good[fastrand::usize(..CALLERS)];
        let token = match bearer {
            Bearer::Good | Bearer::Absent => good.clone(),
            Bearer::Agent => self.agent.clone(),
            Bearer::Garbage => "garbage".to_owned(),
            Bearer::Expired => self.expired.clone(),
            Bearer::WrongScope => self.wrong_scope.clone(),
            Bearer::WrongClient => self.wrong_client.clone(),
            Bearer::OtherIssuer => self.other_issuer.clone(),
            Bearer::UnknownKey => self.unknown_key(),
            Bearer::Forged => forged(good),
        };
        crate::world::client::bearer(&token)
    }
}
