//! The demo's requests as commands for a shell: what one pastes, and what `--write` leaves.

use std::fmt::Write as _;
use std::path::Path;

use super::issuer::Login;
use super::requests::{HOST, Line};
use super::workloads::CA_FILE;

/// Where a token stands, as the header that curl is to send.
pub fn header_file(login: Login) -> String {
    format!("clients/{}.header", login.name())
}

/// The content of such a file.
pub fn header(token: &str) -> String {
    format!("Authorization: Bearer {token}\n")
}

/// The command for a line. `proxy` is an address and a port, or a shell's variable; `folder` is where
/// the demo's files are, `None` for the folder that the command is run in.
pub fn command(line: &Line, proxy: &str, folder: Option<&Path>) -> String {
    let file = |name: &str| match folder {
        Some(folder) => quoted(&folder.join(name).to_string_lossy()),
        None => name.to_owned(),
    };
    let mut command = format!("curl -isS --noproxy '*' --connect-to ::{proxy} --cacert {}", file(CA_FILE));
    if let Some(workload) = line.workload {
        let _ = write!(command, " -E {}", file(&workload.file()));
    }
    if let Some(login) = line.login {
        let _ = write!(command, " -H @{}", file(&header_file(login)));
    }
    if line.method != http::Method::GET {
        let _ = write!(command, " -X {}", line.method);
    }
    let _ = write!(command, " https://{HOST}{}", line.path);
    command
}

/// A program that asks everything, one after the other.
pub fn script(lines: &[Line], proxy: &str, about: &str) -> String {
    let mut script = String::from("#!/bin/sh\n");
    for line in about.lines() {
        let _ = writeln!(script, "{}", format!("# {line}").trim_end());
    }
    let _ = write!(script, "cd \"$(dirname \"$0\")\" || exit 1\nproxy=${{PROXY:-{proxy}}}\n");
    for (number, line) in (1..).zip(lines) {
        let title = format!("{number}. {}: {}, {}", line.title, line.answer, line.reason.as_str());
        let _ = write!(script, "\necho {}\n{}; echo\n", quoted(&title), command(line, "\"$proxy\"", None));
    }
    script
}

/// As a shell takes it for one word.
pub fn quoted(text: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    if !text.is_empty() && text.chars().all(bare) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::requests;

    #[test]
    fn a_command_says_all_that_its_line_says() {
        let lines = requests::lines();
        let commands: Vec<_> = lines.iter().map(|line| command(line, "127.0.0.1:8443", None)).collect();
        assert_eq!(
            commands[2],
            "curl -isS --noproxy '*' --connect-to ::127.0.0.1:8443 --cacert certs/shop-ca.pem \
             -E clients/storefront.pem -H @clients/alice.header -X POST \
             https://orders.shop.example/customers/alice/orders/7/refund"
        );
        let mut distinct = commands.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), lines.len());
    }

    #[test]
    fn a_shell_reads_any_folder_as_one_word() {
        assert_eq!(quoted("/tmp/a-b/c.pem"), "/tmp/a-b/c.pem");
        assert_eq!(quoted("/tmp/it's here"), r"'/tmp/it'\''s here'");
        assert_eq!(quoted("$(x)"), "'$(x)'");
    }
}
