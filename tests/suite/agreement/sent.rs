//! What of a random request goes over the wire, and how the tools are asked about the same.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::cli::mint::Minted;
use countersign::identity::Hop;
use countersign::trial::{Bearer, Bound, Claims, Presented, Question, head};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName};
use http::{HeaderValue, Request};
use serde_json::{Map, Value, json};

use super::requests::{Asked, Binding, PEERS, Way};
use crate::hops::balancer::{KID, Keys, SAID, said_by};
use crate::hops::{Fields, Form};
use crate::possession::Holder;
use crate::world::certificates::{Who, parsed};
use crate::world::client::get;
use crate::world::forge::{chain_of, der};
use crate::world::signing::{KEYS, Key, forged};
use crate::world::{Body, World, sha256_of};

/// What all requests of one world have in common.
pub struct Setting<'w> {
    pub world: &'w World,
    pub certificates: HashMap<Who, Minted>,
    /// Of the proxy itself.
    own: Vec<u8>,
    /// Whose keys tokens are bound to, and somebody else.
    holders: [Holder; 2],
    /// How the hop tells certificates.
    pub form: Form,
    /// Of load balancers, and of somebody else under the same name.
    pub keys: Keys,
    stranger: Key,
}

/// What is sent beside method, host and path.
pub struct Sent<'a> {
    pub asked: &'a Asked,
    /// Of whoever carries it.
    certificate: Option<&'a Minted>,
    /// By which that is told.
    told: Fields,
    /// With its scheme.
    pub token: Option<(&'static str, String)>,
    proof: Option<String>,
    assertion: Option<String>,
    log_in: Option<String>,
}

/// Whose certificate nobody here has.
const OTHER: &[u8] = b"another certificate";
/// Where the hop dials from.
const EDGE: &str = "127.0.0.9";
/// And the load balancer that people log in at.
const BALANCER: &str = "127.0.0.8";

impl<'w> Setting<'w> {
    pub async fn new(world: &'w World) -> Setting<'w> {
        let own = std::fs::read_to_string(world.folder.path().join("orders.pem")).unwrap();
        let holder = || Holder::new("ES256", &world.clock);
        let minted = |who: Who| Some((who, world.certificates.client(who)?));
        Setting {
            world,
            certificates: PEERS.into_iter().filter_map(minted).collect(),
            own: der(&own),
            holders: [holder(), holder()],
            form: Form::AlbChain,
            keys: Keys::start().await,
            stranger: Key::new(KID, "ES256"),
        }
    }

    pub fn send<'a>(&'a self, asked: &'a Asked) -> Sent<'a> {
        let certificate = self.certificates.get(&asked.who);
        let carrier = match asked.way {
            Way::Local => Some(self.own.clone()),
            _ => certificate.map(|minted| chain_of(minted).remove(0)),
        };
        let told = match (asked.way, certificate) {
            (Way::Told, Some(minted)) => self.form.of(minted),
            (Way::Mistold, _) => {
                let garbled = |(name, _)| (name, "garbled".to_owned());
                self.form.of(&self.certificates[&Who::Storefront]).into_iter().map(garbled).take(1).collect()
            }
            _ => Vec::new(),
        };
        let mut sent =
            Sent { asked, certificate, told, token: None, proof: None, assertion: None, log_in: None };
        let spoiled = |token: String| if asked.forged { forged(&token) } else { token };
        if let Some(claims) = &asked.claims {
            let claims = self.bound(claims, asked.binding, carrier.as_deref());
            let token = spoiled(self.world.issuer.token(claims));
            let is_proven = matches!(asked.binding, Binding::Key | Binding::KeyMisproven);
            sent.proof = is_proven.then(|| self.proof(asked, &token));
            sent.token = Some((if is_proven { "DPoP" } else { "Bearer" }, token));
        }
        if let Some((claims, binding)) = &asked.assertion {
            let claims = self.bound(claims, *binding, carrier.as_deref());
            let key = KEYS.iter().find(|key| key.algorithm == "ES256").unwrap();
            let typed = json!({ "typ": "countersign+jwt" });
            sent.assertion = Some(spoiled(self.world.issuer.token_by(key, typed, claims)));
        }
        if let Some(said) = &asked.log_in {
            let (mut header, mut claims) = (json!({}), said.clone());
            for own in ["client", "signer", "exp"] {
                if let Some(value) = claims.as_object_mut().unwrap().remove(own) {
                    header[own] = value;
                }
            }
            claims["exp"] = Value::Null;
            let key = if asked.forged { &self.stranger } else { &self.keys.key };
            sent.log_in = Some(said_by(key, self.world, header, claims));
        }
        sent
    }

    fn bound(&self, claims: &Value, binding: Binding, carrier: Option<&[u8]>) -> Value {
        let mut claims = claims.clone();
        let thumbprint = |der: &[u8]| json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(sha256_of(der)) });
        claims["cnf"] = match binding {
            Binding::Nothing => return claims,
            Binding::Certificate => thumbprint(carrier.unwrap_or(OTHER)),
            Binding::OtherCertificate => thumbprint(OTHER),
            Binding::Key | Binding::KeyUnproven | Binding::KeyMisproven => {
                json!({ "jkt": self.holders[0].thumbprint() })
            }
        };
        claims
    }

    fn proof(&self, asked: &Asked, token: &str) -> String {
        let path = asked.path.split('?').next().unwrap();
        let target = json!({ "htm": asked.method, "htu": format!("https://{}{path}", asked.host) });
        let [own, other] = &self.holders;
        match asked.binding {
            Binding::KeyMisproven if asked.content_type.is_none() => other.proof(token, json!({}), target),
            Binding::KeyMisproven => own.proof(token, json!({}), json!({ "htm": "PATCH" })),
            _ => own.proof(token, json!({}), target),
        }
    }
}

impl Sent<'_> {
    /// Header fields as they are sent, but for `Host`.
    fn fields(&self) -> Vec<(HeaderName, String)> {
        let told = self.told.iter().map(|(name, value)| (HeaderName::from_static(name), value.clone()));
        let named = |name, value: &Option<String>| Some((HeaderName::from_static(name), value.clone()?));
        let token = self.token.as_ref().map(|(scheme, token)| (AUTHORIZATION, format!("{scheme} {token}")));
        let rest = [
            self.asked.content_type.map(|it| (CONTENT_TYPE, it.to_owned())),
            named("x-forwarded-for", &self.asked.client_ip.map(str::to_owned)),
            token,
            named("dpop", &self.proof),
            named("x-auth-assertion", &self.assertion),
            named(SAID, &self.log_in),
        ];
        told.chain(rest.into_iter().flatten()).collect()
    }

    /// `trace` tells it apart.
    pub fn request(&self, trace: &str) -> Request<Body> {
        let mut request = get(self.asked.path);
        *request.method_mut() = self.asked.method.parse().unwrap();
        let headers = request.headers_mut();
        headers.insert(HOST, self.asked.host.parse().unwrap());
        headers.insert("traceparent", trace.parse().unwrap());
        for (name, value) in self.fields() {
            headers.insert(name, HeaderValue::from_str(&value).unwrap());
        }
        request
    }

    fn url(&self) -> String {
        format!("https://{}{}", self.asked.host, self.asked.path)
    }

    fn hop(&self) -> Hop {
        match self.asked.way {
            Way::Direct => Hop::Direct,
            Way::Told | Way::Mistold => Hop::Trusted("edge".parse().unwrap()),
            Way::Browser => Hop::Trusted("balancer".parse().unwrap()),
            Way::Local => Hop::Local,
        }
    }

    fn presented(&self) -> Presented {
        let chain = |minted| Presented::Chain(parsed(minted).0);
        self.certificate.map_or(Presented::Nothing, chain)
    }

    fn asking(&self, fields: &[(HeaderName, String)]) -> Question {
        let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Question {
            listener: Some(self.listener().parse().unwrap()),
            hop: self.hop(),
            peer_ip: Some(self.peer_ip().parse().unwrap()),
            at: Some(self.asked.at),
            ..Question::new(head(self.asked.method, &self.url(), fields).unwrap())
        }
    }

    pub fn listener(&self) -> &'static str {
        match self.asked.way {
            Way::Direct => "open",
            Way::Told | Way::Mistold | Way::Browser => "behind",
            Way::Local => "egress",
        }
    }

    pub fn peer_ip(&self) -> &'static str {
        match self.asked.way {
            Way::Direct | Way::Local => "127.0.0.1",
            Way::Told | Way::Mistold => EDGE,
            Way::Browser => BALANCER,
        }
    }

    /// With what was sent, as it was sent.
    pub fn question(&self) -> Question {
        let mut fields = self.fields();
        // One of them stands in the question itself, so that it can be explained.
        let caller = match (&self.log_in, &self.assertion, &self.token) {
            (Some(log_in), ..) => {
                fields.retain(|(name, _)| name != SAID);
                Bearer::UserClaims(log_in.clone())
            }
            (None, Some(assertion), _) => {
                fields.retain(|(name, _)| name != "x-auth-assertion");
                Bearer::Assertion(assertion.clone())
            }
            (None, None, Some(("Bearer", token))) => {
                fields.retain(|(name, _)| name != AUTHORIZATION);
                Bearer::Token(token.clone())
            }
            (None, None, _) => Bearer::Nothing,
        };
        let peer = if self.asked.way == Way::Direct { self.presented() } else { Presented::Nothing };
        Question { peer, caller, ..self.asking(&fields) }
    }

    /// The same by a certificate and by claims; `None` where they cannot say what was sent.
    pub fn by_claims(&self) -> Option<Question> {
        let caller = self.claims()?.map_or(Bearer::Nothing, Bearer::Claims);
        let mut fields = self.fields();
        let said = ["authorization", "dpop", "x-auth-assertion", SAID];
        fields.retain(|(name, _)| !said.contains(&name.as_str()));
        fields.retain(|(name, _)| self.told.iter().all(|(told, _)| name != told));
        Some(Question { peer: self.presented(), caller, ..self.asking(&fields) })
    }

    /// Whose signatures are sound, and are not two.
    pub fn claims(&self) -> Option<Option<Claims>> {
        let (issuer, token, binding) = match (&self.token, &self.assertion, &self.log_in) {
            _ if self.asked.forged || self.asked.way == Way::Mistold => return None,
            (None, None, None) => return Some(None),
            (Some((_, token)), None, None) => ("corp", token, self.asked.binding),
            (None, Some(assertion), None) => ("front", assertion, self.asked.assertion.as_ref()?.1),
            (None, None, Some(said)) => {
                let mut header = part(said, 0);
                let mut claims = part(said, 1);
                for (member, claim) in
                    [("iss", "iss"), ("exp", "exp"), ("client", "client_id"), ("signer", "signer")]
                {
                    claims.insert(claim.to_owned(), header.remove(member).unwrap());
                }
                let without = if claims.contains_key("sub") { vec![] } else { vec!["sub".to_owned()] };
                return Some(Some(Claims {
                    issuer: "people".parse().unwrap(),
                    claims,
                    without,
                    bound: None,
                }));
            }
            _ => return None,
        };
        let mut claims = part(token, 1);
        let bound = match binding {
            Binding::Nothing => Some(Bound::Nothing),
            Binding::Certificate => Some(Bound::Certificate),
            Binding::OtherCertificate => None,
            Binding::Key => Some(Bound::Key),
            Binding::KeyUnproven | Binding::KeyMisproven => return None,
        };
        if bound.is_some() {
            claims.remove("cnf");
        }
        let added = ["sub", "jti", "actor", "on_behalf_of"].into_iter();
        let without = added.filter(|name| !claims.contains_key(*name)).map(str::to_owned).collect();
        Some(Some(Claims { issuer: issuer.parse().unwrap(), claims, without, bound }))
    }

    /// As a test of the policy says who carries it and what is sent.
    pub fn in_test(&self, test: &mut Value) {
        test["listener"] = self.listener().into();
        test["peer_ip"] = self.peer_ip().into();
        test["hop"] = self.hop().as_str().into();
        match (self.asked.way, self.asked.who) {
            (Way::Direct, Who::NoCertificate) => test["service"] = "none".into(),
            (Way::Direct, who) => test["certificate"] = format!("{who:?}.pem").into(),
            _ => {}
        }
        let mut fields: Map<String, Value> =
            self.told.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
        let more = [("content-type", self.asked.content_type), ("x-forwarded-for", self.asked.client_ip)];
        fields.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
        if !fields.is_empty() {
            test["header"] = fields.into();
        }
    }
}

/// Padded or not.
fn part(token: &str, at: usize) -> Map<String, Value> {
    let text = token.split('.').nth(at).unwrap().trim_end_matches('=');
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}
