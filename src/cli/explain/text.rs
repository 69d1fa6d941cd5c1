//! An account as it is read on a terminal at three in the morning: the verdict first, then what came nearest, then
//! all that it rests on. Marks are words, so that a copy without colours says the same.

use std::fmt::Write as _;

use super::account::{Account, ConditionAccount, Lack, RuleAccount, RuleOutcome, Rules};
use super::record::{Again, RecordAccount};
use super::token::{Outcome, TokenAccount};
use super::who::{CallerAccount, PeerAccount, RoleAccount, ServiceAccount, TokenMapping};
use crate::audit::{Reason, Verdict};
use crate::cli::ink::{Ink, shown};

struct Page {
    text: String,
    ink: Ink,
    /// Also what could not have mattered.
    all: bool,
}

/// How a line begins.
#[derive(Clone, Copy)]
enum Mark {
    Ok,
    No,
    Unknown,
    /// Neither good nor bad.
    None,
}

pub fn of_request(account: &Account, ink: Ink, all: bool) -> String {
    let mut page = Page { text: String::new(), ink, all };
    page.verdict(account);
    page.peer(&account.peer);
    match &account.token {
        Some(token) => page.token(token),
        None if account.in_handshake => page.title("TOKEN", "not looked at: the handshake fails before"),
        None => match account.unread {
            Some(what) => page.title("TOKEN", &format!("none but {what}, which was not read")),
            None => page.title("TOKEN", "none was presented"),
        },
    }
    if let Some(caller) = &account.caller {
        page.caller(caller);
    }
    match &account.rules {
        Some(rules) => page.rules(rules),
        None => page.title("RULES", "none was asked: the request ends before"),
    }
    page.text
}

pub fn of_record(account: &RecordAccount, ink: Ink, all: bool) -> String {
    let mut page = Page { text: String::new(), ink, all };
    page.recorded(account);
    match (&account.now, &account.not_judged) {
        (Some(now), _) => page.again(now),
        (None, why) => {
            page.title("NOW", "not judged again");
            page.line("because", why.as_deref().unwrap_or_default());
        }
    }
    page.text
}

impl Page {
    fn verdict(&mut self, account: &Account) {
        let word = match (account.verdict, account.reason) {
            (Verdict::Allow, _) if account.is_on_trust() => {
                self.ink.yellow("ALLOWED, IF THE TOKEN'S SIGNATURE IS GOOD")
            }
            (Verdict::Allow, Reason::Unenforced) => self.ink.yellow("ALLOWED, UNENFORCED"),
            (Verdict::Allow, _) => self.ink.green("ALLOWED"),
            (Verdict::Deny, _) => self.ink.red("DENIED"),
        };
        let handshake = account.in_handshake.then(|| "in the TLS handshake".to_owned());
        let status = account.status.map(|status| status.to_string()).or(handshake);
        // the first of several is the reason
        let reasons: Vec<_> = match (account.reason, account.also.is_empty()) {
            (Reason::Allowed | Reason::Unenforced, _) => Vec::new(),
            (reason, true) => vec![reason.to_string()],
            (_, false) => account.also.iter().map(ToString::to_string).collect(),
        };
        self.heading(&word, status, &reasons, &account.story);
        for note in &account.notes {
            let note = self.ink.yellow(&format!("! {}", shown(note)));
            let _ = writeln!(self.text, "{note}");
        }
        if let Some(rule) = &account.rule {
            self.line("rule", rule);
        }
        if let Some(near) = account.near_miss.as_ref() {
            if account.rule.as_ref() != Some(&near.rule) {
                self.line("nearest", &near.rule);
            }
            for Lack { wanted, seen } in &near.lacks {
                self.line("  wants", wanted);
                self.line("  saw", seen);
            }
        }
        self.remedy(account.reason);
        if let Some(challenge) = &account.challenge {
            self.line("client gets", &format!("www-authenticate: {challenge}"));
        }
        if let Some(upstream) = account.upstream.as_ref().filter(|_| account.verdict == Verdict::Allow) {
            self.line("goes to", &format!("upstream {upstream}"));
        }
        self.line("asked", &format!("{} at {}", account.asked, account.at));
        self.line("policy", &account.policy);
    }

    fn heading(&mut self, word: &str, status: Option<String>, reasons: &[String], story: &str) {
        let rest: Vec<_> =
            status.into_iter().chain([reasons.join(", ")]).filter(|it| !it.is_empty()).collect();
        let rest = self.ink.bold(&shown(&rest.join("  ")));
        let _ = writeln!(self.text, "{}", format!("{word}  {rest}").trim_end());
        let _ = writeln!(self.text, "{}\n", shown(story));
    }

    /// Of those that name a rule, which is told anyway, there is nothing more to say.
    fn remedy(&mut self, reason: Reason) {
        let says_less = matches!(
            reason,
            Reason::Allowed | Reason::Unenforced | Reason::DeniedByRule | Reason::RequirementUnmet
        );
        if !says_less {
            self.line("to do", reason.remedy());
        }
    }

    fn recorded(&mut self, account: &RecordAccount) {
        let record = &account.recorded;
        let word = match &record.verdict {
            Some(_) if record.is_allowed() => self.ink.green("ALLOWED"),
            Some(_) => self.ink.red("DENIED"),
            None => self.ink.bold(&shown(&record.event.to_uppercase())),
        };
        let status = record.status.map(|status| status.to_string());
        let reasons: Vec<_> = match record.also.is_empty() {
            true => {
                record.reason.iter().filter(|reason| *reason != Reason::Allowed.as_str()).cloned().collect()
            }
            false => record.also.clone(),
        };
        self.heading(&word, status, &reasons, record.story.as_deref().unwrap_or("it tells no story"));
        let lines = [
            ("rule", &record.rule),
            ("owner", &record.owner),
            ("ticket", &record.ticket),
            ("nearest", &record.near_miss.as_ref().map(|near| near.rule.clone())),
            ("  wants", &record.near_miss.as_ref().map(|near| near.lacks.clone())),
            ("  saw", &record.near_miss.as_ref().map(|near| near.seen.clone())),
            ("detail", &record.detail),
            ("goes to", &record.upstream.as_ref().map(|upstream| format!("upstream {upstream}"))),
        ];
        for (label, words) in lines {
            if let Some(words) = words {
                self.line(label, words);
            }
        }
        if let Some(checks) = &record.checks {
            self.line("checks", &format!("certificate {}, token {}", checks.peer, checks.caller));
        }
        if let (Some(cause), Some(remedy)) = (account.cause, account.remedy) {
            self.line("means", cause);
            self.line("to do", remedy);
        }
        let by = record.proxy.as_ref().map_or_else(String::new, |proxy| format!(" by {proxy}"));
        let id = record.id.as_ref().map_or_else(String::new, |id| format!(", id {id}"));
        self.line("recorded", &format!("{}{by}{id}", record.time.as_deref().unwrap_or("at no time")));
        if let Some(trace) = &record.trace {
            self.line("trace", trace);
        }
        let than = if account.same_policy { "the same as now" } else { "not the one at hand" };
        if let Some(policy) = &record.policy {
            self.line("policy", &format!("{policy}, {than}"));
        }
    }

    fn again(&mut self, now: &Again) {
        let (outcome, rule) = (now.outcome, now.rule.as_deref());
        let reasons = now.reasons.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(", ");
        let words = match (now.same, rule) {
            (true, _) => "it would end the same".to_owned(),
            (false, Some(rule)) => format!("it would end otherwise: {outcome}, by {rule:?} {reasons}"),
            (false, None) => format!("it would end otherwise: {outcome} {reasons}"),
        };
        let words = if now.same { words } else { self.ink.yellow(shown(&words).trim_end()) };
        self.title("NOW", &words);
        now.services.iter().for_each(|service| self.service(service));
        if let Some(caller) = &now.caller {
            self.caller(caller);
        }
        self.rules(&now.rules);
    }

    fn peer(&mut self, peer: &PeerAccount) {
        self.title("CERTIFICATE", "");
        let mark = match peer.check.as_str() {
            "ok" => Mark::Ok,
            "absent" | "not_reached" => Mark::None,
            _ => Mark::No,
        };
        match mark {
            Mark::Ok => self.marked(mark, "certificate", &peer.words),
            _ => self.marked(mark, "certificate", &format!("{}: {}", peer.check, peer.words)),
        }
        if let Some(name) = &peer.name {
            self.marked(Mark::None, "peer", name);
        }
        if let Some(hop) = peer.hop.as_ref().filter(|hop| *hop != "direct") {
            self.marked(Mark::None, "hop", hop);
        }
        if peer.check == "ok" && peer.services.is_empty() {
            self.marked(Mark::No, "service", "no [service] names it");
        }
        for service in &peer.services {
            self.service(service);
        }
    }

    fn service(&mut self, service: &ServiceAccount) {
        let name = match &service.named_by {
            Some(pattern) => format!("{}, which is {pattern}", service.service),
            None => service.service.clone(),
        };
        self.marked(Mark::Ok, "service", &name);
        match &service.token {
            None | Some(TokenMapping::NoToken) => {}
            Some(TokenMapping::Unstated) => {
                self.marked(Mark::None, "client_id", "not given: it carries no tokens")
            }
            Some(TokenMapping::Any) => self.marked(Mark::Ok, "client_id", "it may carry any client's tokens"),
            Some(TokenMapping::Listed { client }) => {
                self.marked(Mark::Ok, "client_id", &format!("it may carry this token: {client}"));
            }
            Some(TokenMapping::NotListed { clients }) => {
                let clients =
                    format!("it may not carry this token; it may carry those of {}", clients.join(", "));
                self.marked(Mark::No, "client_id", &clients);
            }
        }
    }

    fn token(&mut self, token: &TokenAccount) {
        self.title("TOKEN", if token.made_up { "made up here" } else { "" });
        for step in &token.steps {
            let mark = match step.outcome {
                Outcome::Ok => Mark::Ok,
                Outcome::Refused => Mark::No,
                Outcome::NotChecked if token.made_up => continue,
                Outcome::NotChecked => Mark::Unknown,
                Outcome::NotReached => continue,
            };
            self.marked(mark, step.step, &step.words);
        }
        let rest: Vec<_> = token.steps.iter().filter(|step| step.outcome == Outcome::NotReached).collect();
        if !rest.is_empty() {
            let rest: Vec<_> = rest.iter().map(|step| step.step).collect();
            self.marked(Mark::None, "not reached", &rest.join(" "));
        }
    }

    fn caller(&mut self, caller: &CallerAccount) {
        self.title("CALLER", "");
        let client =
            caller.client.as_ref().map_or_else(String::new, |client| format!(", through client {client}"));
        let subject = caller.subject.as_deref().unwrap_or("no subject");
        self.marked(Mark::None, "subject", &format!("{subject} of {}{client}", caller.issuer));
        self.marked(Mark::None, "actor", &format!("{} ({})", caller.actor, caller.actor_because.join("; ")));
        if !caller.chain.is_empty() {
            let chain: Vec<_> = caller.chain.iter().map(|link| &*link.subject).collect();
            let acting = format!("{}, on behalf of {}", chain.join(" for "), caller.on_behalf_of);
            self.marked(Mark::None, "acting", &acting);
        }
        if let Some(issuer) = &caller.subject_issuer {
            self.marked(Mark::None, "named by", issuer);
        }
        if !caller.via.is_empty() {
            self.marked(Mark::None, "by way of", &caller.via.join(", "));
        }
        for (label, list) in
            [("scopes", &caller.scopes), ("groups", &caller.groups), ("token roles", &caller.token_roles)]
        {
            if !list.is_empty() {
                self.marked(Mark::None, label, &list.join(" "));
            }
        }
        if let Some(expires) = &caller.expires {
            self.marked(Mark::None, "refused from", expires);
        }
        // of the roles that the caller lacks, those that matter here
        let all = self.all;
        for role in caller.roles.iter().filter(|role| all || role.holds || role.asked_for) {
            self.role(role);
        }
    }

    fn role(&mut self, role: &RoleAccount) {
        let entry = |holds: bool| {
            let entries = role.entries.iter().filter(move |entry| entry.holds == holds);
            let words = entries.map(|entry| format!("{} ({})", entry.wanted, entry.issuer));
            words.collect::<Vec<_>>().join(if role.of == "all" { " and " } else { " or " })
        };
        if role.holds {
            self.marked(Mark::Ok, "role", &format!("{}, by {}", role.role, entry(true)));
        } else {
            let lacks = format!("not {}: that takes {}; {}", role.role, entry(false), role.seen);
            self.marked(Mark::No, "role", &lacks);
        }
    }

    fn rules(&mut self, rules: &Rules) {
        let others = if rules.told.len() < rules.total { " (--all tells of the others)" } else { "" };
        let close = rules.told.iter().any(|rule| rule.effect == "allow");
        let no_allow = match (rules.allow_reaches, close) {
            (true, _) => "",
            (false, true) => ", but no allow; these miss it by one thing about the action",
            (false, false) => ", but no allow",
        };
        let reaching = format!("{} of {} reach this action{no_allow}{others}", rules.reaching, rules.total);
        self.title("RULES", &reaching);
        for (at, rule) in rules.told.iter().enumerate() {
            if at > 0 {
                self.text.push('\n');
            }
            self.rule(rule);
        }
    }

    fn rule(&mut self, rule: &RuleAccount) {
        let word = match (rule.outcome, rule.effect) {
            (RuleOutcome::Holds, "allow") if rule.decided => self.ink.green("ALLOWS"),
            (RuleOutcome::Holds, "deny") => self.ink.red("DENIES"),
            (RuleOutcome::Holds, _) => self.ink.green("holds"),
            (RuleOutcome::Unmet, _) => self.ink.red("UNMET"),
            (RuleOutcome::Met, _) => self.ink.green("met"),
            (RuleOutcome::DoesNotHold, _) => "does not hold".to_owned(),
            (RuleOutcome::OutOfReach, _) => "another action".to_owned(),
        };
        let shadow = if rule.mode == "shadow" { " (in shadow, without effect)" } else { "" };
        let name = self.ink.bold(&format!("{} \"{}\"", rule.effect, shown(&rule.name)));
        let _ = writeln!(self.text, "  {name}: {word}{shadow}");
        let told = [("owner", &rule.owner), ("ticket", &rule.ticket)];
        for (label, value) in told.into_iter().filter_map(|(label, value)| Some((label, value.as_ref()?))) {
            self.marked(Mark::None, label, value);
        }
        rule.conditions.iter().for_each(|condition| self.condition(condition));
    }

    fn condition(&mut self, condition: &ConditionAccount) {
        let mark = if condition.holds { Mark::Ok } else { Mark::No };
        let unspoken = if condition.unspoken { " (unspoken)" } else { "" };
        if condition.holds {
            self.marked(mark, condition.condition, &format!("{}{unspoken}", condition.seen));
        } else {
            let words = format!("wants {}{unspoken}, but {}", condition.wanted, condition.seen);
            self.marked(mark, condition.condition, &words);
        }
    }

    fn title(&mut self, title: &str, words: &str) {
        let title = self.ink.bold(title);
        let between = if words.is_empty() { "" } else { "  " };
        let _ = writeln!(self.text, "\n{title}{between}{words}");
    }

    fn line(&mut self, label: &str, words: &str) {
        let label = self.ink.faint(&format!("{label:11}"));
        let _ = writeln!(self.text, "{label} {}", shown(words));
    }

    fn marked(&mut self, mark: Mark, label: &str, words: &str) {
        let sign = match mark {
            Mark::Ok => self.ink.green("  ok  "),
            Mark::No => self.ink.red("  NO  "),
            Mark::Unknown => self.ink.yellow("  ??  "),
            Mark::None => "      ".to_owned(),
        };
        let label = self.ink.faint(&format!("{label:12}"));
        let _ = writeln!(self.text, "{sign}{label} {}", shown(words));
    }
}
