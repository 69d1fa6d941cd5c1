//! An account as it is read on a terminal at three in the morning: the verdict first, then what came nearest, then
//! all that it rests on. Marks are words, so that a copy without colours says the same.

use std::fmt::Write as _;

use super::account::{Account, ConditionAccount, Lack, RuleAccount, RuleOutcome, Rules};
use super::token::{Outcome, TokenAccount};
use super::who::{CallerAccount, PeerAccount, RoleAccount, ServiceAccount, TokenMapping};
use crate::audit::line::is_misleading;
use crate::audit::{Reason, Verdict};
use crate::cli::ink::Ink;

/// Columns of what stands before the words of a line.
const LABEL: usize = 13;

pub fn render(account: &Account, ink: Ink, all: bool) -> String {
    let mut page = Page { text: String::new(), ink };
    page.verdict(account);
    page.peer(&account.peer);
    if let Some(token) = &account.token {
        page.token(token);
    }
    if let Some(caller) = &account.caller {
        page.caller(caller, all);
    }
    match &account.rules {
        Some(rules) => page.rules(rules),
        None => page.title("RULES", "none was asked: the request ends before"),
    }
    page.text
}

pub struct Page {
    pub text: String,
    pub ink: Ink,
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

impl Page {
    pub fn verdict(&mut self, account: &Account) {
        let word = match (account.verdict, account.reason) {
            (Verdict::Allow, Reason::Unenforced) => self.ink.yellow("ALLOWED, UNENFORCED"),
            (Verdict::Allow, _) => self.ink.green("ALLOWED"),
            (Verdict::Deny, _) => self.ink.red("DENIED"),
        };
        let status = account.status.map_or(String::new(), |status| format!("  {status}"));
        let reasons = if account.also.is_empty() {
            account.reason.to_string()
        } else {
            // the first of them is the reason
            account.also.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let line = self.ink.bold(&format!("{status}  {reasons}"));
        let _ = writeln!(self.text, "{word}{line}");
        self.plain(&account.story);
        self.text.push('\n');
        for note in &account.notes {
            let note = format!("! {}", shown(note));
            let _ = writeln!(self.text, "{}", self.ink.yellow(&note));
        }
        if let Some(near) = &account.near_miss {
            self.line("nearest rule", &near.rule);
            for Lack { wanted, seen } in &near.lacks {
                self.line("  wants", wanted);
                self.line("  saw", seen);
            }
        }
        if account.verdict == Verdict::Deny {
            self.line("what to do", account.remedy);
        }
        if let Some(challenge) = &account.challenge {
            self.line("client gets", &format!("www-authenticate: {challenge}"));
        }
        if let Some(upstream) = &account.upstream
            && account.verdict == Verdict::Allow
        {
            self.line("goes to", &format!("upstream {upstream}"));
        }
        self.line("asked", &format!("{} at {}", account.asked, account.at));
        self.line("policy", &account.policy);
    }

    fn peer(&mut self, peer: &PeerAccount) {
        self.title("CERTIFICATE", "");
        let mark = match peer.check.as_str() {
            "ok" => Mark::Ok,
            "absent" | "not_reached" => Mark::None,
            _ => Mark::No,
        };
        self.marked(mark, &peer.check, &peer.words);
        if let Some(name) = &peer.name {
            self.line("  peer", name);
        }
        if let Some(hop) = peer.hop.as_ref().filter(|hop| *hop != "direct") {
            self.line("  hop", hop);
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
            Some(TokenMapping::Unstated) => self.line("  client_id", "it says nothing about tokens"),
            Some(TokenMapping::Any) => self.line("  client_id", "it may carry any client's tokens"),
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
        self.title("TOKEN", "");
        for step in &token.steps {
            let mark = match step.outcome {
                Outcome::Ok => Mark::Ok,
                Outcome::Refused => Mark::No,
                Outcome::NotChecked => Mark::Unknown,
                Outcome::NotReached => continue,
            };
            self.marked(mark, step.step, &step.words);
        }
        let rest: Vec<_> = token.steps.iter().filter(|step| step.outcome == Outcome::NotReached).collect();
        if !rest.is_empty() {
            let rest: Vec<_> = rest.iter().map(|step| step.step).collect();
            self.line("  not reached", &rest.join(" "));
        }
    }

    fn caller(&mut self, caller: &CallerAccount, all: bool) {
        self.title("CALLER", "");
        let client =
            caller.client.as_ref().map_or_else(String::new, |client| format!(", through client {client}"));
        let subject = caller.subject.as_deref().unwrap_or("no subject");
        self.line("  subject", &format!("{subject} of {}{client}", caller.issuer));
        self.line("  actor", &format!("{} ({})", caller.actor, caller.actor_because.join("; ")));
        if !caller.chain.is_empty() {
            let chain: Vec<_> = caller.chain.iter().map(|link| &*link.subject).collect();
            let on_behalf_of = caller.on_behalf_of;
            self.line(
                "  acting",
                &format!("{}, on behalf of a token of kind {on_behalf_of}", chain.join(" for ")),
            );
        }
        for (label, list) in [
            ("  scopes", &caller.scopes),
            ("  groups", &caller.groups),
            ("  token roles", &caller.token_roles),
        ] {
            if !list.is_empty() {
                self.line(label, &list.join(" "));
            }
        }
        self.line("  ends", &caller.expires);
        // of the roles that the caller lacks, those that matter here
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
        let reaching = match rules.reaching {
            0 if rules.told.is_empty() => "none reaches this action".to_owned(),
            0 => "none reaches this action; of these, one thing about the action is another".to_owned(),
            reaching => format!("{reaching} of {} reach this action", rules.total),
        };
        self.title("RULES", &reaching);
        for (at, rule) in rules.told.iter().enumerate() {
            if at > 0 {
                self.text.push('\n');
            }
            self.rule(rule);
        }
    }

    fn rule(&mut self, rule: &RuleAccount) {
        let (word, mark) = match (rule.effect, rule.outcome) {
            ("allow", RuleOutcome::Holds) => ("ALLOWS", Mark::Ok),
            (_, RuleOutcome::Holds) => ("DENIES", Mark::No),
            (_, RuleOutcome::Unmet) => ("UNMET", Mark::No),
            (_, RuleOutcome::Met) => ("met", Mark::Ok),
            (_, RuleOutcome::DoesNotHold) => ("does not hold", Mark::None),
            (_, RuleOutcome::OutOfReach) => ("out of reach", Mark::None),
        };
        let word = match mark {
            Mark::Ok => self.ink.green(word),
            Mark::No => self.ink.red(word),
            Mark::Unknown | Mark::None => word.to_owned(),
        };
        let shadow = if rule.mode == "shadow" { " (in shadow, without effect)" } else { "" };
        let name = self.ink.bold(&format!("{} \"{}\"", rule.effect, shown(&rule.name)));
        let _ = writeln!(self.text, "  {name}: {word}{shadow}");
        let told = [("owner", &rule.owner), ("ticket", &rule.ticket)];
        for (label, value) in told.into_iter().filter_map(|(label, value)| Some((label, value.as_ref()?))) {
            self.line(&format!("    {label}"), value);
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

    pub fn title(&mut self, title: &str, words: &str) {
        let title = self.ink.bold(title);
        let between = if words.is_empty() { "" } else { "  " };
        let _ = writeln!(self.text, "\n{title}{between}{words}");
    }

    pub fn line(&mut self, label: &str, words: &str) {
        let label = self.ink.faint(&format!("{label:LABEL$}"));
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

    fn plain(&mut self, words: &str) {
        let _ = writeln!(self.text, "{}", shown(words));
    }
}

/// What came from outside moves no cursor and turns no reading direction.
fn shown(words: &str) -> String {
    let mut shown = String::with_capacity(words.len());
    for c in words.chars() {
        if is_misleading(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}
