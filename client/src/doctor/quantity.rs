//! Quantities as Kubernetes writes them, to compare what the agent asks for with what is left.

/// The number that a quantity stands for; `None` for what is none.
pub(super) fn parse(text: &str) -> Option<f64> {
    let text = text.trim();
    // `E` is both an exponent and a suffix: where digits follow, it is an exponent.
    if let Ok(number) = text.parse::<f64>() {
        return number.is_finite().then_some(number);
    }
    let end = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, suffix) = text.split_at(end);
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024f64,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_is_read() {
        let cases = [
            ("20m", 0.02),
            ("1", 1.0),
            ("1.5", 1.5),
            ("2e3", 2000.0),
            ("128Mi", 134_217_728.0),
            ("4k", 4000.0),
            ("2E", 2e18),
            ("0", 0.0),
        ];
        for (text, number) in cases {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["", "Mi", "1Qi", "x", "inf", "1 Mi x"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
