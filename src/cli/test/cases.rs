//! Tests as typed become questions with what should become of them; names that the configuration does not have
//! are errors, each with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use super::expect::{self, Expectation};
use super::file::{CallerTerm, Description, Expect, NONE, Test, TestFile};
use crate::clock::Timestamp;
use crate::config::error::{Diagnostics, Report, suggestion};
use crate::config::read::{Field, Reader};
use crate::config::source::{At, FileId, Sources, Span};
use crate::config::{Kind, WITHOUT_HOP, sources_of, tree};
use crate::identity::{Hop, Name, PeerName};
use crate::policy::Policy;
use crate::tls::{PemSource, dns_peer};
use crate::trial::{Bearer, Claims, Presented, Question, Trial, head};

/// One question, and what should become of it.
pub struct Case {
    /// Of the test, and of its case.
    pub name: Rc<str>,
    pub file: FileId,
    /// Where the test or case stands.
    pub span: Span,
    /// As `GET https://…`.
    pub request: Rc<str>,
    /// As `storefront`.
    pub peer: Rc<str>,
    /// As `alice`.
    pub caller: Rc<str>,
    pub question: Question,
    pub expect: Rc<[Expectation]>,
}

/// All files of tests, and all that is wrong with them.
pub struct Cases {
    pub sources: Sources,
    /// All files that were read, certificates too.
    pub files: BTreeSet<PathBuf>,
    pub cases: Vec<Case>,
}

/// Reads files, or folders of them.
///
/// # Errors
/// All that is wrong, also with what tests say of the configuration.
pub fn read(paths: &[PathBuf], trial: &Trial, now: Timestamp) -> Result<Cases, Report> {
    let mut found = Diagnostics::default();
    let sources = sources_of(paths, Kind::Tests, &mut found);
    let mut files: BTreeSet<PathBuf> = sources.paths().map(PathBuf::from).collect();
    let mut cases = Vec::new();
    for file in sources.ids() {
        let (value, span) =
            (tree::Value::Table(tree::parse(file, &sources, &mut found)), Span::start_of(file));
        let mut reader = Reader { found: &mut found, sources: &sources, secrets: &mut Vec::new() };
        let Some(typed) = TestFile::read(&tree::Node { value, span }, &mut reader) else { continue };
        let mut resolver = Resolver::new(&typed, &sources, trial, now, &mut found);
        for (_, caller) in typed.caller.iter().flat_map(|callers| &callers.value) {
            resolver.caller(caller, now);
        }
        for test in typed.test.iter().flat_map(|tests| &tests.value) {
            cases.extend(resolver.test(test));
        }
        files.extend(resolver.certificates);
    }
    if found.has_errors() {
        return Err(Report::new(sources, found, files));
    }
    Ok(Cases { sources, files, cases })
}

/// What the tests of one file are read by.
struct Resolver<'a> {
    callers: BTreeMap<&'a str, &'a CallerTerm>,
    sources: &'a Sources,
    trial: &'a Trial,
    now: Timestamp,
    certificates: Vec<PathBuf>,
    found: &'a mut Diagnostics,
}

/// A value and what it is called.
type Called<T> = (Rc<str>, T);

impl<'a> Resolver<'a> {
    fn new(
        file: &'a TestFile,
        sources: &'a Sources,
        trial: &'a Trial,
        now: Timestamp,
        found: &'a mut Diagnostics,
    ) -> Resolver<'a> {
        let callers = file.caller.iter().flat_map(|callers| &callers.value);
        let callers = callers.map(|(name, caller)| (name.value.as_str(), &caller.value)).collect();
        Resolver { callers, sources, trial, now, certificates: Vec::new(), found }
    }

    fn policy(&self) -> &'a Policy {
        self.trial.policy()
    }

    fn test(&mut self, test: &'a At<Test>) -> Vec<Case> {
        let Some(name) = &test.value.name else {
            self.error("missing_key", test.span, "a test without a name", "add `name = \"what it shows\"`");
            return Vec::new();
        };
        match &test.value.case {
            None => self.row(&name.value, test, None),
            Some(cases) => {
                let rows = cases.value.iter().map(|case| {
                    if let Some(inner) = &case.value.case {
                        let message = "a case has no cases of its own";
                        self.error("contradiction", inner.span, message, "write another `[[test.case]]`");
                    }
                    let name = match &case.value.name {
                        Some(of_case) => format!("{}: {}", name.value, of_case.value),
                        None => name.value.clone(),
                    };
                    self.row(&name, test, Some(case))
                });
                rows.flatten().collect()
            }
        }
    }

    /// Everything of a test, or of a case laid over it, with each other.
    fn row(&mut self, name: &str, test: &'a At<Test>, case: Option<&'a At<Test>>) -> Vec<Case> {
        let span = case.map_or(test.span, |case| case.span);
        let layers: Vec<&'a Test> = case.iter().map(|case| &case.value).chain([&test.value]).collect();
        let at = layers.iter().find_map(|layer| layer.at).map_or(self.now, |at| at.value.0);
        let Some(requests) = layers.iter().find_map(|layer| layer.request.as_ref()) else {
            let remedy = "add `request = \"GET https://…\"`";
            self.error("missing_key", span, "nothing is asked", remedy);
            return Vec::new();
        };
        let expect = self.expected(span, &layers);
        let fields: Vec<(&str, &str)> = layers
            .iter()
            .find_map(|layer| layer.header.as_ref())
            .into_iter()
            .flat_map(|header| &header.value)
            .flat_map(|(name, values)| {
                values.value.iter().map(move |it| (name.value.as_str(), it.value.as_str()))
            })
            .collect();
        let peers = self.peers(&layers);
        let callers = match layers.iter().find_map(|layer| layer.caller.as_ref()) {
            Some(callers) => callers.value.iter().filter_map(|caller| self.caller(caller, at)).collect(),
            None => vec![(NONE.into(), Bearer::Nothing)],
        };
        let mut cases = Vec::new();
        for request in &requests.value {
            let Some(asked) = self.question(request, &fields, &layers, at) else { continue };
            for (peer, presented) in &peers {
                for (caller, bearer) in &callers {
                    cases.push(Case {
                        name: name.into(),
                        file: span.file,
                        span,
                        request: request.value.as_str().into(),
                        peer: Rc::clone(peer),
                        caller: Rc::clone(caller),
                        question: Question {
                            peer: presented.clone(),
                            caller: bearer.clone(),
                            ..asked.clone()
                        },
                        expect: Rc::clone(&expect),
                    });
                }
            }
        }
        cases
    }

    fn question(
        &mut self,
        request: &At<String>,
        fields: &[(&str, &str)],
        layers: &[&Test],
        at: Timestamp,
    ) -> Option<Question> {
        const REMEDY: &str = "write a method and a URL, as `\"GET https://orders.shop.example/7\"`";
        let asked =
            request.value.split_once(' ').map(|(method, url)| head(method, url, fields.iter().copied()));
        let head = match asked {
            Some(Ok(head)) => head,
            Some(Err(error)) => {
                self.error("bad_request", request.span, error.to_string(), REMEDY);
                return None;
            }
            None => {
                let message = format!("`{}` is no request", request.value);
                self.error("bad_request", request.span, message, REMEDY);
                return None;
            }
        };
        let listener = layers.iter().find_map(|layer| layer.listener.as_ref());
        if let Some(listener) = listener {
            self.known(
                "listener",
                listener.span,
                listener.value.as_str(),
                self.trial.listeners().map(Name::as_str),
            );
        }
        let hop = layers.iter().find_map(|layer| layer.hop.as_ref());
        if let Some(hop) = hop {
            let names = WITHOUT_HOP.into_iter().chain(self.trial.hops().map(Name::as_str));
            self.known("hop", hop.span, hop.value.as_str(), names);
        }
        let hop = hop.map(|hop| hop.value.clone());
        Some(Question {
            listener: listener.map(|listener| listener.value.clone()),
            hop: match hop {
                Some(hop) if hop.as_str() == Hop::Local.as_str() => Hop::Local,
                Some(hop) if hop.as_str() != Hop::Direct.as_str() => Hop::Trusted(hop),
                Some(_) | None => Hop::Direct,
            },
            peer_ip: layers.iter().find_map(|layer| layer.peer_ip).map(|ip| ip.value),
            client_ip: layers.iter().find_map(|layer| layer.client_ip).map(|ip| ip.value),
            at: Some(at),
            ..Question::new(head)
        })
    }

    /// Of the case, if it says who is there in any way, else of the test.
    fn peers(&mut self, layers: &[&'a Test]) -> Vec<Called<Presented>> {
        let says = |test: &&&Test| {
            ["service", "spiffe_id", "certificate", "dns_name"].iter().any(|key| test.gives(key))
        };
        let Some(layer) = layers.iter().find(says) else { return vec![(NONE.into(), Presented::Nothing)] };
        let mut peers = Vec::new();
        for service in layer.service.iter().flat_map(|services| &services.value) {
            peers.extend(self.service(service));
        }
        for id in layer.spiffe_id.iter().flat_map(|ids| &ids.value) {
            let name = PeerName::Spiffe(id.value.clone());
            peers.push((id.value.as_str().into(), Presented::Named(name)));
        }
        for file in layer.certificate.iter().flat_map(|files| &files.value) {
            let path = self.sources.folder(file.span.file).join(&file.value);
            self.certificates.push(path.clone());
            match PemSource::File(path).certificates() {
                Ok(chain) => peers.push((file.value.as_str().into(), Presented::Chain(chain))),
                Err(error) => {
                    let remedy = "name a PEM file with the client's chain, leaf first";
                    self.error("bad_certificate", file.span, error.to_string(), remedy);
                }
            }
        }
        for dns_name in layer.dns_name.iter().flat_map(|names| &names.value) {
            match &layer.trust_domain {
                Some(trust_domain) => {
                    match dns_peer(dns_name.value.split_ascii_whitespace(), trust_domain.value.clone()) {
                        Ok(name) => peers.push((dns_name.value.as_str().into(), Presented::Named(name))),
                        Err(error) => {
                            let remedy = "write it as a certificate has it: `app.svc.shop.example`";
                            self.error("bad_value", dns_name.span, error.to_string(), remedy);
                        }
                    }
                }
                None => {
                    let remedy = "add `trust_domain = \"…\"`, whose CA vouches for it";
                    self.error("missing_key", dns_name.span, "`dns_name` without its `trust_domain`", remedy);
                }
            }
        }
        peers
    }

    fn service(&mut self, service: &At<String>) -> Option<Called<Presented>> {
        let called = service.value.as_str().into();
        if service.value == NONE {
            return Some((called, Presented::Nothing));
        }
        let services = self.policy().parts().services.iter();
        self.known("service", service.span, &service.value, services.map(|service| service.name.as_str()));
        Some((called, Presented::Service(service.value.parse().ok()?)))
    }

    fn caller(&mut self, typed: &'a At<CallerTerm>, at: Timestamp) -> Option<Called<Bearer>> {
        let (called, described) = match &typed.value {
            CallerTerm::Named(name) if name == NONE => return Some((NONE.into(), Bearer::Nothing)),
            CallerTerm::Named(name) => (name.as_str().into(), self.named(name, typed.span, 0)?),
            CallerTerm::Described(description) => {
                let whole = self.described(description, typed.span, 0)?;
                let word = |name: &str| whole.claims.get(name).and_then(serde_json::Value::as_str);
                (word("sub").or_else(|| word("client_id")).unwrap_or("a caller").into(), whole)
            }
        };
        let Some(issuer) = &described.issuer else {
            let remedy = "add `issuer = \"…\"`: whose token it is";
            self.error("missing_key", typed.span, "a caller without an issuer", remedy);
            return None;
        };
        self.known(
            "issuer",
            issuer.span,
            issuer.value.as_str(),
            self.trial.issuers().map(|issuer| issuer.name.as_str()),
        );
        let mut claims = described.claims;
        for (name, by) in described.ago {
            claims.insert(name, at.minus(by).unix_seconds().into());
        }
        let issuer = issuer.value.clone();
        Some((
            called,
            Bearer::Claims(Claims { issuer, claims, without: described.without, bound: described.bound }),
        ))
    }

    fn named(&mut self, name: &str, span: Span, depth: usize) -> Option<Description> {
        match self.callers.get(name).copied() {
            // Longer than all names there are: some stand for each other.
            Some(_) if depth > self.callers.len() => {
                let message = format!("caller `{name}` is like itself");
                self.error("contradiction", span, message, "take one `like` out");
                None
            }
            Some(CallerTerm::Described(description)) => self.described(description, span, depth + 1),
            Some(CallerTerm::Named(other)) => self.named(other, span, depth + 1),
            None => {
                let message = format!("no caller is called `{name}`");
                let remedy = suggestion(name, self.callers.keys().copied());
                self.error("unknown_caller", span, message, remedy);
                None
            }
        }
    }

    fn described(&mut self, own: &Description, span: Span, depth: usize) -> Option<Description> {
        let mut whole = match &own.like {
            Some(like) => self.named(&like.value, span, depth)?,
            None => Description::default(),
        };
        whole.issuer = own.issuer.clone().or(whole.issuer);
        // What one says later is true, however it says it.
        let says =
            |name: &String| own.claims.contains_key(name) || own.ago.iter().any(|(other, _)| other == name);
        whole.without.retain(|name| !says(name));
        whole.ago.retain(|(name, _)| !says(name));
        whole.claims.extend(own.claims.clone());
        whole.ago.extend(own.ago.clone());
        whole.without.extend(own.without.clone());
        whole.bound = own.bound.or(whole.bound);
        Some(whole)
    }

    fn expected(&mut self, span: Span, layers: &[&'a Test]) -> Rc<[Expectation]> {
        let said: Vec<&Expect> =
            layers.iter().filter_map(|layer| layer.expect.as_ref()).map(|it| &it.value).collect();
        if said.iter().all(|expect| expect.is_empty()) {
            let remedy = "add `expect = { verdict = \"allow\" }`";
            self.error("missing_key", span, "nothing is expected", remedy);
        }
        let parts = self.policy().parts();
        for rule in said.iter().flat_map(|expect| expect.rules()).filter(|rule| rule.value != NONE) {
            if !parts.rules.iter().any(|known| known.name == rule.value) {
                let message = format!("no rule is called `{}`", rule.value);
                let remedy = suggestion(&rule.value, parts.rules.iter().map(|rule| rule.name.as_str()));
                self.error("unknown_name", rule.span, message, remedy);
            }
        }
        for expect in &said {
            if let Some(route) = &expect.route {
                let routes = parts.routes.iter().map(|route| &route.name);
                self.known("route", route.span, route.value.as_str(), routes.map(Name::as_str));
            }
            if let Some(upstream) = &expect.upstream {
                self.known(
                    "upstream",
                    upstream.span,
                    upstream.value.as_str(),
                    parts.upstreams.iter().map(Name::as_str),
                );
            }
        }
        expect::expectations(&said).into()
    }

    /// Once for each place, however many cases it is part of.
    fn error(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if !self.found.has_error_in(span) {
            self.found.error(code, span, message, remedy);
        }
    }

    /// Says what a name was meant to be that nothing has.
    fn known<'n>(
        &mut self,
        kind: &'static str,
        span: Span,
        name: &str,
        names: impl Iterator<Item = &'n str> + Clone,
    ) {
        if !names.clone().any(|known| known == name) {
            let message = format!("no {kind} is called `{name}`");
            self.error("unknown_name", span, message, suggestion(name, names));
        }
    }
}
