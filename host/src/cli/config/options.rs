//! The options of the command line as keys of the file: which there are, whether a value fits one, and making the file's
//! values what they are when neither flag nor variable says anything.

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command};

use super::file::Config;
use super::in_one_line;
use crate::cli::overrides::Configured;

/// The key of an option: its variable in small letters; nothing for what is said on the command line only.
fn key(option: &Arg) -> Option<String> {
    match option.get_env()?.to_str()? {
        super::VARIABLE => None,
        variable => Some(variable.to_lowercase()),
    }
}

/// Every option of a command, and of the commands below it.
fn all(command: &Command) -> Vec<&Arg> {
    command.get_arguments().chain(command.get_subcommands().flat_map(all)).collect()
}

/// The option of a key; `set`, `plugin` and `for`, which have no variable, by that name.
pub(super) fn find(command: &Command, wanted: &str) -> Option<Arg> {
    let is_it = |option: &&&Arg| {
        key(option).as_deref() == Some(wanted) || (wanted == "for" && option.get_long() == Some("for"))
    };
    all(command).iter().find(is_it).map(|option| (*option).clone())
}

/// All keys, once each.
pub(super) fn keys(command: &Command) -> Vec<String> {
    let mut keys: Vec<String> = all(command).into_iter().filter_map(key).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Whether these values fit an option.
///
/// # Errors
/// When they do not; the message says which, and why.
pub(super) fn check(option: &Arg, values: &[String]) -> Result<(), String> {
    let takes_many = matches!(option.get_action(), ArgAction::Append);
    if !takes_many && values.len() != 1 {
        return Err(format!("{} is one value, and here it is a list", key(option).unwrap_or_default()));
    }
    let action = if takes_many { ArgAction::Append } else { ArgAction::Set };
    // Alone, it can ask for no other.
    let probe = option.clone().action(action).num_args(1).required(false).requires(Resettable::Reset);
    let long = option.get_long().unwrap_or_default().to_owned();
    let typed = values.iter().map(|value| format!("--{long}={value}"));
    let probed = Command::new("probe").no_binary_name(true).arg(probe).try_get_matches_from(typed);
    probed.map(drop).map_err(|error| in_one_line(&error))
}

/// The command line with the file's values behind it.
pub(super) fn with_defaults(command: Command, config: &Config) -> Command {
    let options: Vec<(clap::Id, Vec<String>)> = command
        .get_arguments()
        .filter_map(|option| {
            let name = match (option.get_long(), command.get_name()) {
                (Some("plugin"), "run") => "plugin".to_owned(),
                (Some("set"), _) => "set".to_owned(),
                _ => key(option)?,
            };
            let values: Vec<String> = config.of(&name).map(str::to_owned).collect();
            (!values.is_empty()).then(|| (option.get_id().clone(), values))
        })
        .collect();
    let with_own = options.into_iter().fold(command, |command, (id, values)| {
        // Hidden, because help is no place for the password in a URL.
        command.mut_arg(id, |option| option.required(false).default_values(values).hide_default_value(true))
    });
    let sections: Vec<String> = config.of("for").map(str::to_owned).collect();
    let takes_them = with_own.get_arguments().any(|option| option.get_long() == Some("for"));
    let with_own = if takes_them { with_own.arg(Configured::option(sections)) } else { with_own };
    with_own.mut_subcommands(|command| with_defaults(command, config))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::file::ADDRESSED;
    use super::*;

    /// The options of `host run` for which this holds, by name.
    fn of_a_run(holds: impl Fn(&Arg) -> bool) -> Vec<String> {
        let cli = crate::cli::Cli::command();
        let run = cli.find_subcommand("run").expect("it is a command");
        let options = run.get_arguments().filter(|option| holds(option));
        options.map(|option| option.get_long().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn every_option_of_a_run_has_a_key() {
        // A plugin, settings and what `--for` sets are keys of a projection's section; `--once` is for who types or scripts it.
        assert_eq!(of_a_run(|option| key(option).is_none()), ["plugin", "once", "set", "for"]);
    }

    #[test]
    fn every_option_that_can_be_for_one_projection_has_a_key_in_its_section() {
        let names_one =
            |option: &Arg| option.get_value_names().unwrap_or_default().iter().any(|name| name.starts_with("[NAME=]"));
        let is_no_key = |option: &Arg| !key(option).is_some_and(|key| ADDRESSED.contains(&&*key));
        // The section's name is the plugin's; of slots it is a replica set that is named.
        assert_eq!(of_a_run(|option| names_one(option) && is_no_key(option)), ["plugin", "slots"]);
    }
}
