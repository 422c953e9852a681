//! The way of a user with a network of his own: pruned, retrained and saved by PyTorch,
//! merged here, and loaded and measured there again, as the hints of the program say.
#![expect(unreachable_pub, reason = "modules of a test have no other users")]

mod python;

use std::process::Command;

use serde_json::Value;

const SMS_MERGE: &str = env!("CARGO_BIN_EXE_sms-merge");

#[test]
fn a_network_of_torch_comes_back_as_a_soup_that_is_measured() {
    let Some(python) = python::with(&["torch"]) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/pytorch/soup.py");
    let output = Command::new(python)
        .args([script.as_ref(), path.as_os_str()])
        .env("SMS_MERGE", SMS_MERGE)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");

    // The advice is what the script does then.
    assert!(
        said.contains("`torch.optim.swa_utils.update_bn(loader, model)`"),
        "{said}"
    );
    assert!(!said.contains("sms-merge recalibrate"), "{said}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let found: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    let share = |value: &Value| value.as_f64().unwrap();
    let ingredients = found["ingredients"].as_array().unwrap();
    let worst = ingredients.iter().map(share).fold(1.0, f64::min);
    assert_eq!(ingredients.len(), 3);
    assert!(share(&found["soup"]) > worst - 0.03, "{found}");
    assert!(
        share(&found["soup"]) > share(&found["pruned"]) + 0.2,
        "{found}"
    );
    assert!((share(&found["sparsity"]) - 0.9).abs() < 1e-3, "{found}");

    let run = |words: &[&str]| {
        let output = Command::new(SMS_MERGE)
            .args(words)
            .current_dir(path)
            .output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    };
    let soup = "soup.safetensors";
    let names = ["ingredient-1.pt", "ingredient-2.pt", "ingredient-3.pt"];
    assert_eq!(run(&[&["verify", soup], &names[..]].concat()).0, 0);
    // The statistics that torch estimated left the mask alone.
    assert_eq!(run(&["check", soup, "soup.pt"]).0, 0);
    #[cfg(feature = "train")]
    for words in [
        &["eval", soup][..],
        &["recalibrate", soup, "-o", "never.st"],
    ] {
        let (status, said) = run(words);
        assert_eq!(status, 2, "{said}");
        assert!(
            said.contains("does not say which network it holds"),
            "{said}"
        );
    }
}
