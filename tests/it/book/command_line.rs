//! The reference of the command line, generated from what the program prints with `--help`.

use std::fmt::Write as _;

use super::hold;
use crate::harness::Deployment;

#[test]
fn the_reference_of_the_command_line_is_what_help_says() {
    let mut text = String::new();
    describe(&Deployment::bare(), &[], &mut text);
    hold("reference/command-line.md", "countersign --help", &text);
}

fn describe(deployment: &Deployment, command: &[&str], text: &mut String) {
    let help = deployment.done(&[command, &["--help"]].concat());
    let marks = "#".repeat(command.len().min(2) + 2);
    let name = [&["countersign"], command].concat().join(" ");
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    write!(text, "{marks} `{name}`\n\n```text\n{}\n```\n\n", lines.join("\n")).unwrap();
    for inner in subcommands(&help) {
        describe(deployment, &[command, &[inner]].concat(), text);
    }
}

fn subcommands(help: &str) -> Vec<&str> {
    let listed = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| {
        line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?.split(' ').next()
    });
    names.filter(|name| *name != "help").collect()
}
