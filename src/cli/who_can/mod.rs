//! `countersign who-can METHOD URL`: the reverse question, whom a policy lets do one thing.
//!
//! Nothing is judged here: [`Access`] reads the policy backwards, and each somebody it shows is let in by the
//! evaluator that serves.

mod text;

use std::io::{self, IsTerminal, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;
use http::header::HOST;
use serde::Serialize;

use super::diff::witness::{Shown, settings};
use super::ink::Ink;
use super::{ConfigArgs, EXIT_CONFIG, EXIT_USAGE, Format};
use crate::access::{self, Access, Shut, Way, WhoCan, Why};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::identity::Direction;
use crate::policy::difference::{Closed, Outcome};
use crate::policy::role::CarriedClients;
use crate::policy::rule::Effect;
use crate::policy::{Action, Cause, Policy, RuleId};
use crate::token::IssuerSettings;
use crate::trial::{self, Trial};

#[derive(Debug, Args)]
#[command(after_help = "\
Names every allow that reaches the request and, for each, the services, roles and actors that it lets in, what else \
must be true, and one such request as a `countersign explain` command; whom it names and does not let in, and why; \
then the denies and requires that reach. What is not listed comes in for nobody.

  countersign who-can -c /etc/countersign GET https://orders.shop.example/customers/alice/orders/7

Exit codes: 0 answered, also where it is nobody; 2 wrong usage; 78 the configuration cannot be loaded.")]
pub struct WhoCanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// As GET
    method: String,
    /// With scheme and host, as https://orders.shop.example/customers/alice/orders/7
    url: String,
    /// A header field, as 'content-type: application/grpc'; may be given again
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// When it is asked, as 2027-01-15T12:00:00Z; now if left out
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// The other end of the connection; any if left out
    #[arg(long, value_name = "ADDRESS")]
    peer_ip: Option<IpAddr>,
    /// Of what the local application sends by an outbound listener; so too where no inbound route takes it
    #[arg(long)]
    outbound: bool,
    /// How to answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What is answered.
#[derive(Debug, Serialize)]
struct Account {
    method: String,
    url: String,
    at: String,
    route: Option<String>,
    /// Why the request ends before anybody is judged.
    refused: Option<String>,
    nobody: bool,
    /// Until then all come in whom nothing forbids: the route is not enforced.
    unenforced_until: Option<String>,
    allows: Vec<AllowAccount>,
    denies: Vec<RuleAccount>,
    requires: Vec<RuleAccount>,
    shadow: Vec<RuleAccount>,
}

#[derive(Debug, Serialize)]
struct AllowAccount {
    rule: String,
    /// What must be true besides, of all whom it lets in.
    only_if: Vec<String>,
    lets_in: Vec<WayAccount>,
    not: Vec<ShutAccount>,
}

#[derive(Debug, Serialize)]
struct WayAccount {
    services: Vec<ServiceAccount>,
    issuer: Option<String>,
    roles: Vec<RoleAccount>,
    actors: Vec<String>,
    explain: String,
}

#[derive(Debug, Serialize, PartialEq, Clone)]
struct ServiceAccount {
    service: String,
    identity: String,
    /// Whose tokens it may carry.
    clients: String,
}

#[derive(Debug, Serialize, PartialEq, Clone)]
struct RoleAccount {
    role: String,
    by: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ShutAccount {
    services: Vec<String>,
    roles: Vec<String>,
    issuers: Vec<String>,
    why: String,
}

#[derive(Debug, Serialize)]
struct RuleAccount {
    rule: String,
    effect: &'static str,
    of: Vec<String>,
}

pub fn run(args: &WhoCanArgs) -> ExitCode {
    let clock = Clock::system();
    let config = match args.config.load(&clock) {
        Ok(config) => config,
        Err(report) => {
            eprint!("{}", report.to_text(io::stderr().is_terminal()));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match answer(args, config, args.at.unwrap_or(clock.now())) {
        Ok(account) => {
            let text = match args.format {
                Format::Text => text::text(&account, Ink::of_stdout()),
                Format::Json => format!("{:#}\n", serde_json::json!(account)),
            };
            // Whoever reads it may have seen enough and gone.
            let _ = io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn answer(args: &WhoCanArgs, config: Config, now: Timestamp) -> Result<Account, String> {
    let mut fields = Vec::new();
    for header in &args.headers {
        let field = header.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
        fields.push(field.ok_or("a header is `name: value`, in one argument: -H 'name: value'")?);
    }
    let mut head = trial::head(&args.method, &args.url, fields).map_err(|error| error.to_string())?;
    let (issuers, limits, approach) = (config.issuers.clone(), config.limits.token, config.approach());
    let trial = Trial::new(config, now).map_err(|error| error.to_string())?;
    let policy = trial.policy();
    let mut account = Account {
        method: args.method.clone(),
        url: args.url.clone(),
        at: now.to_string(),
        route: None,
        refused: None,
        nobody: true,
        unenforced_until: None,
        allows: Vec::new(),
        denies: Vec::new(),
        requires: Vec::new(),
        shadow: Vec::new(),
    };
    let asked = match trial.read(&mut head) {
        Ok(asked) => asked,
        Err(refusal) => {
            let detail = refusal.detail.map_or(String::new(), |detail| format!(": {detail}"));
            account.refused = Some(format!("{}{detail}", refusal.reason));
            return Ok(account);
        }
    };
    let nothing = policy.permitting_nothing();
    let access = Access::new(policy, &nothing, &issuers, &limits, &approach, now);
    let action = asked.action(&head.headers);
    let comes_in = !args.outbound && policy.route_for(&action, Direction::Inbound).is_some();
    let direction = if comes_in { Direction::Inbound } else { Direction::Outbound };
    let found = access.who_can(action, direction, args.peer_ip);
    let files = args.config.files.iter().map(|file| file.display().to_string()).collect();
    // a time that was asked for is said again
    let now = args.at.map_or(now, |_| Timestamp::MIN);
    let told = Telling { policy, issuers: &issuers, action, files, now };
    told.fill(&mut account, &found);
    Ok(account)
}

/// What answers are told with.
struct Telling<'a> {
    policy: &'a Policy,
    issuers: &'a [IssuerSettings],
    action: Action<'a>,
    files: Vec<String>,
    now: Timestamp,
}

impl Telling<'_> {
    fn fill(&self, account: &mut Account, found: &WhoCan) {
        account.nobody = found.is_nobody();
        account.route = found.route.map(|id| self.policy.route(id).name.to_string());
        let unenforced = found.unenforced_until.filter(|_| found.unenforced.is_some());
        account.unenforced_until = unenforced.map(|until| until.to_string());
        for allow in &found.allows {
            let rule = self.policy.rule(allow.rule);
            account.allows.push(AllowAccount {
                rule: rule.name.clone(),
                only_if: access::further_demands(self.policy, rule, &self.action),
                lets_in: allow.open.iter().map(|way| self.way(way)).collect(),
                not: allow.shut.iter().map(|shut| self.shut(shut)).collect(),
            });
        }
        account.denies = self.rules(&found.denies);
        account.requires = self.rules(&found.requires);
        account.shadow = self.rules(&found.shadow);
    }

    fn rules(&self, ids: &[RuleId]) -> Vec<RuleAccount> {
        let one = |id: &RuleId| {
            let rule = self.policy.rule(*id);
            RuleAccount {
                rule: rule.name.clone(),
                effect: rule.effect.as_str(),
                of: access::demands(self.policy, rule),
            }
        };
        ids.iter().map(one).collect()
    }

    fn way(&self, way: &Way) -> WayAccount {
        let parts = self.policy.parts();
        let services: Vec<ServiceAccount> = way
            .services
            .iter()
            .map(|(id, identity)| {
                let service = &parts.services[id.index()];
                let clients = match &service.clients {
                    CarriedClients::Unstated => "no client_id given".to_owned(),
                    CarriedClients::Any => "tokens of any client".to_owned(),
                    CarriedClients::Listed(clients) => {
                        let of = |client: &crate::policy::role::ClientPattern| {
                            format!("{} of {}", client.client, parts.issuers[client.issuer.index()].name)
                        };
                        format!(
                            "tokens of client {}",
                            clients.iter().map(of).collect::<Vec<_>>().join(" or ")
                        )
                    }
                };
                ServiceAccount { service: service.name.to_string(), identity: identity.clone(), clients }
            })
            .collect();
        let roles = way.roles.iter().map(|held| RoleAccount {
            role: parts.roles[held.role.index()].name.to_string(),
            by: held.by.clone(),
        });
        let issuer = settings(way.issuer.as_ref(), self.issuers.iter());
        let mut shown = Shown::alone(&way.witness, issuer, self.now);
        shown.headers.remove(HOST.as_str());
        WayAccount {
            issuer: way.issuer.as_ref().map(ToString::to_string),
            roles: roles.collect(),
            actors: way.actors.iter().map(ToString::to_string).collect(),
            services,
            explain: shown.explain(&self.files),
        }
    }

    fn shut(&self, shut: &Shut) -> ShutAccount {
        let parts = self.policy.parts();
        let why = match &shut.why {
            Why::NotYet(from) => format!("the rule begins at {from}"),
            Why::Over(until) => format!("the rule ended at {until}"),
            Why::Closed(Closed::NoToken) => "no token of theirs can speak of such an actor".to_owned(),
            Why::Closed(Closed::NoClaims) => "no token can say all that is asked for at once".to_owned(),
            Why::Closed(Closed::Open(gap)) => format!("whether it does is not known: {gap}"),
            Why::Closed(Closed::Denied(outcome)) => match outcome {
                Outcome::Denied { cause: Cause::TokenNotIssuedToService, .. } => {
                    "a service that names them may not carry such a token (client_id)".to_owned()
                }
                Outcome::Denied { rule: Some(id), .. } => {
                    let rule = self.policy.rule(*id);
                    match rule.effect {
                        Effect::Require => format!("require `{}` cannot be met by them", rule.name),
                        _ => format!("deny `{}` holds of all of them", rule.name),
                    }
                }
                Outcome::Denied { cause, .. } => format!("denied: {}", crate::audit::Reason::from(*cause)),
                Outcome::Refused(code) => format!("such a token is refused: {code}"),
                Outcome::Permitted { rule: None, .. } => {
                    "no service names them: only a route that is not enforced lets them in".to_owned()
                }
                Outcome::Permitted { .. } => "another rule lets them in".to_owned(),
            },
        };
        let whom = &shut.whom;
        ShutAccount {
            services: whom.services.iter().map(|id| parts.services[id.index()].name.to_string()).collect(),
            roles: whom.roles.iter().map(|id| parts.roles[id.index()].name.to_string()).collect(),
            issuers: whom.issuers.iter().map(|id| parts.issuers[id.index()].name.to_string()).collect(),
            why,
        }
    }
}
