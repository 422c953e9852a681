//! The man pages are those that the definitions of the command line give.
//!
//! Needs the feature `train`, whose commands have pages too.
//!
//! `SMS_MERGE_UPDATE=1 cargo test --test man` writes them anew.

#![cfg(feature = "train")]

use std::fs;
use std::path::Path;

use clap::Command;
use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::Roff;
use clap_mangen::roff::roman;

// The definitions belong to the binary, which a test cannot link to.
#[allow(dead_code)]
#[path = "../src/cli/args.rs"]
mod args;
#[allow(dead_code)]
#[path = "../src/cli/size.rs"]
mod size;

/// Name and text of the page of `command` and of every command below it.
fn pages(command: &Command) -> Vec<(String, String)> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let mut pages = vec![(format!("{name}.1"), page(command))];
    let commands = command.get_subcommands();
    for command in commands.filter(|command| !command.is_hide_set()) {
        pages.extend(self::pages(command));
    }
    pages
}

fn page(command: &Command) -> String {
    let version = format!("sms-merge {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone())
        .source(version)
        .manual("sms-merge");
    let mut text = Vec::new();
    let mut write = || -> std::io::Result<()> {
        man.render_title(&mut text)?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        if command.get_arguments().next().is_some() {
            man.render_options_section(&mut text)?;
        }
        if command.has_subcommands() {
            man.render_subcommands_section(&mut text)?;
        }
        let after = command.get_after_long_help().map(ToString::to_string);
        sections(&after.unwrap_or_default()).to_writer(&mut text)
    };
    write().expect("a vector takes every byte");
    String::from_utf8(text).expect("help is text")
}

/// Sections of lines that are kept as they are. A line that begins with a letter and
/// ends in a colon is the title of one.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    let mut is_open = false;
    for line in text.lines() {
        match line.strip_suffix(':') {
            Some(title) if line.starts_with(char::is_alphabetic) => {
                if is_open {
                    roff.control("fi", []);
                }
                roff.control("SH", [title.to_uppercase().as_str()]);
                roff.control("nf", []);
                is_open = true;
            }
            _ if line.is_empty() => {}
            _ => {
                roff.text([roman(line)]);
            }
        }
    }
    if is_open {
        roff.control("fi", []);
    }
    roff
}

fn all_pages() -> Vec<(String, String)> {
    let mut command = args::Arguments::command();
    command.build();
    pages(&command)
}

#[test]
#[cfg_attr(
    not(feature = "train"),
    ignore = "pages of the trainer's commands are missing"
)]
fn man_pages_are_up_to_date() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let pages = all_pages();
    if std::env::var_os("SMS_MERGE_UPDATE").is_some() {
        fs::create_dir_all(&directory).unwrap();
        for (name, text) in &pages {
            fs::write(directory.join(name), text).unwrap();
        }
    }
    let remedy = "run `SMS_MERGE_UPDATE=1 cargo test --test man`";
    for (name, text) in &pages {
        let stored = fs::read_to_string(directory.join(name)).unwrap_or_default();
        assert!(&stored == text, "man/{name} is out of date: {remedy}");
    }
    for entry in fs::read_dir(&directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            pages.iter().any(|(page, _)| *page == name),
            "man/{name} belongs to no command"
        );
    }
}

#[test]
fn every_command_has_a_page_that_says_how_it_ends() {
    let pages = all_pages();
    let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "",
        "-merge",
        "-check",
        "-inspect",
        "-verify",
        "-prune",
        "-mask",
        "-mask-diff",
        "-mask-union",
        "-mask-intersect",
        "-model",
        "-data",
        "-train",
        "-eval",
        "-recalibrate",
        "-completions",
    ] {
        assert!(
            names.contains(&format!("sms-merge{name}.1").as_str()),
            "{name}"
        );
    }
    for (name, text) in &pages {
        let says = text.contains("EXIT STATUS") && text.contains("interrupted");
        assert!(says || name.ends_with("completions.1"), "{name}");
    }
}

/// Every command, the hidden ones too.
fn commands(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().flat_map(commands);
    std::iter::once(command).chain(below).collect()
}

/// Columns of the narrowest terminal that help is written for.
const COLUMNS: usize = 80;

#[test]
fn help_fits_a_narrow_terminal_as_it_is_written() {
    let mut root = args::Arguments::command();
    root.build();
    for command in commands(&root) {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let after = [command.get_after_help(), command.get_after_long_help()];
        for text in after.into_iter().flatten() {
            for line in text.to_string().lines() {
                assert!(line.chars().count() <= COLUMNS, "{name}: {line}");
            }
        }
        for argument in command.get_arguments() {
            let values = argument.get_possible_values();
            let longest = values.iter().map(|value| value.get_name().len()).max();
            for value in values.iter().filter(|value| !value.is_hide_set()) {
                // Ten spaces, `- name: `, and what it means, which must not be broken.
                let help = value.get_help().map(ToString::to_string);
                let width = 10 + 2 + longest.unwrap_or(0) + 2;
                let width = width + help.map_or(0, |help| help.chars().count());
                let (id, value) = (argument.get_id(), value.get_name());
                assert!(width <= COLUMNS, "{name} {id} {value}: {width}");
            }
        }
    }
}

#[test]
fn definitions_are_sound() {
    args::Arguments::command().debug_assert();
}
