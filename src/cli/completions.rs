//! `countersign completions` and `countersign man`, from the one definition of the arguments.

use std::io;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, EXIT_FINDINGS};

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell to write them for
    shell: Shell,
}

pub fn run(args: &CompletionsArgs) -> ExitCode {
    clap_complete::generate(args.shell, &mut Cli::command(), "countersign", &mut io::stdout());
    ExitCode::SUCCESS
}

pub fn man() -> ExitCode {
    match clap_mangen::Man::new(Cli::command()).render(&mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the manual page cannot be written: {error}");
            ExitCode::from(EXIT_FINDINGS)
        }
    }
}
