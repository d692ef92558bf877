//! Rules about ops that the engine does not have, or not in every form.

use super::{Api, Check, Chip, Effect, Grade, RULE, Rule};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "no-hardware",
        check: Check::Ops(&[
            "cumsum",
            "one_hot",
            "scatter",
            "scatter_along_axis",
            "scatter_nd",
            "stack",
            "l2_norm",
            "reduce_prod",
            "gru",
            "lstm",
            "rnn",
            "logical_and",
            "logical_not",
            "logical_or",
            "logical_xor",
        ]),
        source: "ANEForge's op catalogue, qwen-ane's list of what the text path takes",
        help: "compute it on the host, or by ops that the engine has",
        ..RULE
    },
    Rule {
        name: "gather",
        check: Check::Ops(&["gather", "gather_along_axis", "gather_nd"]),
        source: "qwen-ane; through e5rt it works (ANEForge)",
        help: "look up on the host, or multiply by a matrix of zeros and ones",
        ..RULE
    },
    Rule {
        name: "tile",
        check: Check::Ops(&["tile"]),
        symptom: "the compile fails, and on M3 Max so does everything the process compiles later",
        source: "Apple Neural Engine field guide on M3 Max",
        help: "let arithmetic broadcast, or multiply by a matrix of ones",
        ..RULE
    },
    Rule {
        name: "conv-3d",
        check: Check::MaxConvAxes(2),
        api: Api::Any,
        source: "ANEForge's op catalogue: the hardware names the capability, and the compile fails",
        help: "sum 2-d convolutions",
        ..RULE
    },
    Rule {
        name: "conv-bias",
        check: Check::Passed("conv", "bias"),
        source: "Orion constraint 13",
        help: "add the bias with `add`",
        ..RULE
    },
    Rule {
        name: "conv-input-weights",
        check: Check::InputAsWeights,
        chips: &[Chip::M3],
        effect: Effect::Wrong,
        symptom: "the weights are silently ignored",
        source: "Apple Neural Engine field guide on M3 Max; weights sliced from a packed single input work (lil-bro)",
        help: "use `matmul`, or slice the weights from the input that holds the activations",
        ..RULE
    },
    Rule {
        name: "conv-computed-groups",
        check: Check::ComputedGroups,
        source: "lil-bro on M3 Max",
        help: "keep the weights of grouped and depthwise convolutions constant",
        ..RULE
    },
    Rule {
        name: "cast",
        check: Check::Ops(&["cast"]),
        chips: &[Chip::M1, Chip::M2],
        grade: Grade::Claimed,
        source: "the fallback of maderix/ANE's tiny_train; a later test on M1 blames fp32 inputs and outputs alone",
        help: "convert on the host",
        ..RULE
    },
    Rule {
        name: "concat",
        check: Check::Ops(&["concat"]),
        effect: Effect::Doubtful,
        source: "Orion constraint 1; works with every argument passed by maderix/ANE, rustane, ANEForge and h3.c-ane",
        help: "pass `axis` and `interleave` as named constants",
        ..RULE
    },
    Rule {
        name: "trigonometry",
        check: Check::Ops(&["sin", "cos"]),
        chips: &[Chip::M1],
        api: Api::Any,
        effect: Effect::Doubtful,
        source: "ANEForge's op catalogue: from A15 on, and it is not sure of M2",
        help: "keep a table of the values as a constant",
        ..RULE
    },
    Rule {
        name: "sorting",
        check: Check::Ops(&["topk", "argsort"]),
        chips: &[Chip::M1],
        api: Api::Any,
        effect: Effect::Doubtful,
        symptom: "the compile fails for some sizes",
        source: "ANEForge's op catalogue: from A14 on, with a band of sizes that M1 refuses",
        help: "sort on the host",
        ..RULE
    },
    Rule {
        name: "attention-mask",
        check: Check::Passed("scaled_dot_product_attention", "attn_mask"),
        api: Api::Any,
        effect: Effect::Wrong,
        symptom: "the mask is ignored",
        source: "Orion constraint 6, and every project that tried",
        help: "write attention as `matmul`, `add` of the mask, `softmax` and `matmul`",
        ..RULE
    },
    Rule {
        name: "layer-norm",
        check: Check::Ops(&["layer_norm"]),
        api: Api::E5rt,
        effect: Effect::Doubtful,
        symptom: "the compile fails for some values of the weights",
        source: "ANEForge issue 149, coreai-models issue 138",
        help: "write it as reductions and arithmetic",
        ..RULE
    },
    Rule {
        name: "softplus",
        check: Check::Ops(&["softplus"]),
        effect: Effect::Wrong,
        symptom: "values above 10.4 come out wrong",
        source: "qwen-ane on M5 Max",
        help: "write it as `max(x, 0) + log(1 + exp(-abs(x)))`",
        ..RULE
    },
    Rule {
        name: "compressed-constants",
        check: Check::Ops(&["constexpr_lut_to_dense", "constexpr_affine_dequantize", "constexpr_sparse_to_dense"]),
        effect: Effect::Doubtful,
        source: "qwen-ane's probe of an older system; works through e5rt (ANEForge), and \
                 `constexpr_blockwise_shift_scale` in text too",
        help: "use `constexpr_blockwise_shift_scale`, or constants in fp16",
        ..RULE
    },
];
