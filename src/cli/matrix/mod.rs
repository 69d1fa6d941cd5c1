//! `countersign matrix`: the whole table, who reaches what by which rules, for people, spreadsheets and auditors.

mod csv;
mod html;
mod json;
mod page;
mod picture;
mod text;
mod view;

use std::io::{self, IsTerminal, Write as _};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::ink::Ink;
use super::{ConfigArgs, EXIT_CONFIG, EXIT_USAGE};
use crate::access::{Access, Only};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::identity::Name;
use crate::policy::{RoleId, RouteId, ServiceId};
use view::View;

#[derive(Debug, Args)]
#[command(after_help = "\
A row is a service (or no certificate), a role by itself (or no role, or no token) and who acts; a column is a route \
and methods that no rule tells apart. A cell is

  ●  always     an allow wants nothing beyond the row and the column, and no deny or require speaks of them
  ◐  sometimes  there are requests that are permitted: the rules by number, their conditions below
  ·  never      no request of this row and column is permitted, whatever else it has

  countersign matrix -c /etc/countersign
  countersign matrix -c /etc/countersign --service storefront --route orders
  countersign matrix -c /etc/countersign --format html > who-reaches-what.html

Exit codes: 0 done; 2 wrong usage; 78 the configuration cannot be loaded.")]
pub struct MatrixArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only this [service]; may be given again
    #[arg(long, value_name = "NAME")]
    service: Vec<Name>,
    /// Only this [role]; may be given again
    #[arg(long, value_name = "NAME")]
    role: Vec<Name>,
    /// Only this [route]; may be given again
    #[arg(long, value_name = "NAME")]
    route: Vec<Name>,
    /// From when on, as 2027-01-15T12:00:00Z; now if left out
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// How to answer
    #[arg(long, value_enum, default_value_t = TableFormat::Text)]
    format: TableFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TableFormat {
    /// For people, alike rows together
    Text,
    /// One line a cell
    Csv,
    /// One page with a picture, that needs nothing else
    Html,
    Json,
}

pub fn run(args: &MatrixArgs) -> ExitCode {
    let clock = Clock::system();
    let config = match args.config.load(&clock) {
        Ok(config) => config,
        Err(report) => {
            eprint!("{}", report.to_text(io::stderr().is_terminal()));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match answer(args, &config, args.at.unwrap_or(clock.now())) {
        Ok(text) => {
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

fn answer(args: &MatrixArgs, config: &Config, now: Timestamp) -> Result<String, String> {
    let policy = &config.policy;
    let parts = policy.parts();
    let only = Only {
        services: ids(&args.service, "service", parts.services.iter().map(|it| &it.name), ServiceId)?,
        roles: ids(&args.role, "role", parts.roles.iter().map(|it| &it.name), RoleId)?,
        routes: ids(&args.route, "route", parts.routes.iter().map(|it| &it.name), RouteId)?,
    };
    let nothing = policy.permitting_nothing();
    let approach = config.approach();
    let access = Access::new(policy, &nothing, &config.issuers, &config.limits.token, &approach, now);
    let matrix = access.matrix(&only);
    let view = View::new(policy, &matrix, now);
    let files: Vec<String> = args.config.files.iter().map(|file| file.display().to_string()).collect();
    let now = args.at.map_or(now, |_| Timestamp::MIN);
    let asked = json::Asked { files: &files, issuers: &config.issuers, now };
    Ok(match args.format {
        TableFormat::Text => text::table(&view, Ink::of_stdout()),
        TableFormat::Csv => csv::table(&view),
        TableFormat::Html => html::page(&view, &config.name),
        TableFormat::Json => json::table(&view, &asked),
    })
}

fn ids<'n, Id>(
    given: &[Name],
    what: &str,
    known: impl Iterator<Item = &'n Name> + Clone,
    id: fn(u32) -> Id,
) -> Result<Vec<Id>, String> {
    let find = |name: &Name| {
        let found = known.clone().zip(0..).find(|(known, _)| *known == name);
        found.map(|(_, at)| id(at)).ok_or_else(|| format!("there is no {what} `{name}`"))
    };
    given.iter().map(find).collect()
}
