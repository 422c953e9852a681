//! What the name of a tensor says of its part in an adapter.

/// The part that a tensor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role<'a> {
    /// The factor that is applied first, `(rank, in, ..)`, of a module.
    Down(&'a str, Naming),
    /// The factor that is applied second, `(out, rank, ..)`, of a module.
    Up(&'a str, Naming),
    /// What the second factor adds, `(out)`, of a module.
    Bias(&'a str),
    /// The number that the scale of a module is made of.
    Alpha(&'a str),
    /// A part of an adapter of this kind, whose tensors cannot be averaged one by one.
    Foreign(&'static str),
    /// Anything else: averaged as it is.
    Other,
}

/// How a factor is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `X.lora_A.weight`, `X.lora_B.weight`.
    Peft,
    /// `X.lora_embedding_A`, `X.lora_embedding_B`: the product is transposed.
    PeftEmbedding,
    /// `X.lora_down.weight`, `X.lora_up.weight`, dots of `X` being `_`.
    Kohya,
    /// `X.lora.down.weight`, `X.lora_linear_layer.down.weight`, `X_lora.down.weight`.
    Diffusers,
}

/// Ends of the names of factors: first, second, and how they are called.
const FACTORS: [(&str, &str, Naming); 4] = [
    (".lora_down.weight", ".lora_up.weight", Naming::Kohya),
    (".lora.down.weight", ".lora.up.weight", Naming::Diffusers),
    (
        ".lora_linear_layer.down.weight",
        ".lora_linear_layer.up.weight",
        Naming::Diffusers,
    ),
    ("_lora.down.weight", "_lora.up.weight", Naming::Diffusers),
];

/// Components of names that tell a kind of adapter whose tensors are not averaged.
const FOREIGN: [(&str, &str); 21] = [
    ("hada_w1_a", "LoHa"),
    ("hada_w1_b", "LoHa"),
    ("hada_w2_a", "LoHa"),
    ("hada_w2_b", "LoHa"),
    ("hada_t1", "LoHa"),
    ("hada_t2", "LoHa"),
    ("lokr_w1", "LoKr"),
    ("lokr_w1_a", "LoKr"),
    ("lokr_w1_b", "LoKr"),
    ("lokr_w2", "LoKr"),
    ("lokr_w2_a", "LoKr"),
    ("lokr_w2_b", "LoKr"),
    ("lokr_t2", "LoKr"),
    ("lora_mid", "LoCon with a middle factor"),
    ("lora_magnitude_vector", "DoRA"),
    ("dora_scale", "DoRA"),
    ("lora_E", "AdaLoRA"),
    ("vera_lambda_b", "VeRA"),
    ("vera_lambda_d", "VeRA"),
    ("randlora_lambda", "RandLoRA"),
    ("hra_u", "HRA"),
];

/// Beginnings of such components.
const FOREIGN_BEGINNINGS: [(&str, &str); 4] = [
    ("oft_", "OFT"),
    ("boft_", "BOFT"),
    ("vblora_", "VB-LoRA"),
    ("poly_lora_", "Poly"),
];

/// The part that a tensor of this name has in an adapter.
pub fn role_of(name: &str) -> Role<'_> {
    // Most names of networks have none of this.
    let last = name.strip_suffix(".weight").unwrap_or(name);
    for (down, up, naming) in FACTORS {
        if let Some(module) = name.strip_suffix(down) {
            return Role::Down(module, naming);
        }
        if let Some(module) = name.strip_suffix(up) {
            return Role::Up(module, naming);
        }
    }
    if let Some(module) = name.strip_suffix(".alpha") {
        return Role::Alpha(module);
    }
    // `X.lora_A.weight`, or with the name of an adapter: `X.lora_A.default.weight`.
    let ends = name.rmatch_indices('.').map(|(at, _)| at).take(3);
    let mut end = name.len();
    for at in ends {
        let component = &name[at + 1..end];
        let (module, is_bias) = (&name[..at], name.ends_with(".bias"));
        match component {
            "lora_A" if !is_bias => return Role::Down(module, Naming::Peft),
            "lora_B" if !is_bias => return Role::Up(module, Naming::Peft),
            "lora_B" => return Role::Bias(module),
            "lora_embedding_A" => return Role::Down(module, Naming::PeftEmbedding),
            "lora_embedding_B" => return Role::Up(module, Naming::PeftEmbedding),
            _ => {}
        }
        if let Some(kind) = foreign(component) {
            return Role::Foreign(kind);
        }
        end = at;
    }
    match foreign(last) {
        Some(kind) => Role::Foreign(kind),
        None => Role::Other,
    }
}

fn foreign(component: &str) -> Option<&'static str> {
    let exact = FOREIGN.iter().find(|(name, _)| *name == component);
    let begun = || {
        let mut all = FOREIGN_BEGINNINGS.iter();
        all.find(|(name, _)| component.starts_with(name))
    };
    exact.or_else(begun).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_told_by_their_names() {
        let check = |name, expected| assert_eq!(role_of(name), expected, "{name}");
        for name in [
            "m.q.lora_A.weight",
            "m.q.lora_A.default.weight",
            "m.q.lora_A",
        ] {
            check(name, Role::Down("m.q", Naming::Peft));
        }
        check("m.q.lora_B.weight", Role::Up("m.q", Naming::Peft));
        check("m.q.lora_B.bias", Role::Bias("m.q"));
        check(
            "m.e.lora_embedding_A",
            Role::Down("m.e", Naming::PeftEmbedding),
        );
        check(
            "m.e.lora_embedding_B.default",
            Role::Up("m.e", Naming::PeftEmbedding),
        );
        check(
            "lora_unet_a_b.lora_down.weight",
            Role::Down("lora_unet_a_b", Naming::Kohya),
        );
        check("lora_unet_a_b.alpha", Role::Alpha("lora_unet_a_b"));
        check(
            "unet.a.lora.up.weight",
            Role::Up("unet.a", Naming::Diffusers),
        );
        check(
            "unet.a.to_q_lora.down.weight",
            Role::Down("unet.a.to_q", Naming::Diffusers),
        );
        for name in [
            "base_model.model.classifier.weight",
            "layers.0.q_a_proj.weight",
            "blocks.0.att.w_lora.lora.0.weight",
            "alpha",
            "lora_A",
            "",
        ] {
            check(name, Role::Other);
        }
    }

    #[test]
    fn other_adapters_are_told_by_theirs() {
        let check = |name, expected| assert_eq!(role_of(name), Role::Foreign(expected), "{name}");
        check("m.q.hada_w1_a", "LoHa");
        check("lycoris_a.lokr_w2_a", "LoKr");
        check("m.q.lora_magnitude_vector.weight", "DoRA");
        check("m.q.lora_magnitude_vector.default.weight", "DoRA");
        check("lora_unet_a.dora_scale", "DoRA");
        check("lora_unet_a.lora_mid.weight", "LoCon with a middle factor");
        check("m.q.oft_R.weight", "OFT");
        check("m.q.vera_lambda_b", "VeRA");
    }
}
