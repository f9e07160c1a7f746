//! Files for package managers, made from templates: `{{NAME}}` is a value, and what stands between the lines
//! `{{#platforms}}` and `{{/platforms}}` comes once for each archive.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

const BEGIN: &str = "{{#platforms}}\n";
const END: &str = "{{/platforms}}\n";

/// Values by their names.
pub(crate) type Values = BTreeMap<&'static str, String>;

/// Fills in a template.
///
/// # Errors
/// It names a value that there is not, or has no line for the platforms.
pub(crate) fn render(template: &str, values: &Values, platforms: &[Values]) -> Result<String> {
    let (before, rest) = template.split_once(BEGIN).context("no line {{#platforms}} in the template")?;
    let (each, after) = rest.split_once(END).context("no line {{/platforms}} in the template")?;
    let mut text = fill(before, &[values])?;
    for platform in platforms {
        text += &fill(each, &[platform, values])?;
    }
    Ok(text + &fill(after, &[values])?)
}

fn fill(template: &str, values: &[&Values]) -> Result<String> {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").context("a {{ without }} in the template")?;
        let Some(value) = values.iter().find_map(|values| values.get(name)) else {
            bail!("the template names {{{{{name}}}}}, and there is no such value");
        };
        text += value;
        text += rest;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&'static str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    #[test]
    fn what_stands_between_the_lines_comes_once_for_each_platform() {
        let template = "v{{VERSION}}\n{{#platforms}}\n- {{OS}} {{VERSION}}\n{{/platforms}}\nend\n";
        let platforms = [values(&[("OS", "linux")]), values(&[("OS", "darwin")])];
        let text = render(template, &values(&[("VERSION", "1")]), &platforms).unwrap();
        assert_eq!(text, "v1\n- linux 1\n- darwin 1\nend\n");
    }

    #[test]
    fn a_value_that_nobody_gives_is_an_error() {
        let template = "{{#platforms}}\n{{OS}}\n{{/platforms}}\n";
        let error = render(template, &Values::new(), &[Values::new()]).unwrap_err();
        assert_eq!(error.to_string(), "the template names {{OS}}, and there is no such value");
        assert!(render("nothing", &Values::new(), &[]).is_err());
        assert!(render("{{#platforms}}\n{{OS\n{{/platforms}}\n", &Values::new(), &[Values::new()]).is_err());
    }
}
