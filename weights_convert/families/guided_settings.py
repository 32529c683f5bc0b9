"""Settings of openai/guided-diffusion, improved-diffusion and consistency_models."""

from collections.abc import Mapping

from weights_convert.families.settings import (
    COMPUTING,
    NAMING,
    RECORDED,
    SAMPLING,
    SHAPES,
    TRAINING,
    Only,
    Settings,
    names,
)

# Compared with the tensors, or deciding what they do not tell.
_NETWORK = names(
    "image_size in_channels model_channels num_channels out_channels num_res_blocks "
    "channel_mult num_heads num_head_channels num_heads_upsample use_scale_shift_norm "
    "resblock_updown num_classes class_cond learn_sigma"
)
_ORDER = names("use_new_attention_order")
_ONLY = {
    "dims": Only((2,), "only networks of images can"),
    "conv_resample": Only((True,), "the U-Nets resample by a layer or in a block"),
}
_U_NET_ONLY = _ONLY | {
    "use_spatial_transformer": Only((False,), "its blocks attend to a text"),
    "class_name": Only(
        ("UNetModel", None), "others, such as SuperResModel, are given a second image"
    ),
}
_SHARED: Mapping[str, frozenset[str]] = {
    SHAPES: names("attention_resolutions"),
    COMPUTING: names("use_checkpoint use_fp16 fp16_scale_growth"),
    NAMING: names("project model_path data_dir val_data_dir resume_checkpoint"),
    RECORDED: names("heads"),
    TRAINING: names(
        "dropout use_kl rescale_learned_sigmas schedule_sampler lr weight_decay "
        "lr_anneal_steps anneal_lr batch_size microbatch ema_rate log_interval "
        "save_interval eval_interval iterations noised"
    ),
    SAMPLING: names(
        "timestep_respacing sigma_small clip_denoised num_samples use_ddim "
        "classifier_path classifier_scale sampler dynamic_threshold seed"
    ),
}

U_NET_SETTINGS = Settings(
    owner="guided diffusion",
    read=_NETWORK
    | _ORDER
    | names("noise_schedule diffusion_steps steps rescale_timesteps predict_xstart")
    | names("model_mean_type"),
    only=_U_NET_ONLY
    | {
        "model_var_type": Only(
            ("learned_range", "fixed_small", "fixed_large", None),
            "a variance learned as itself has no place in a prior",
        )
    },
    harmless=_SHARED,
)
CONSISTENCY_SETTINGS = Settings(
    owner="consistency models",
    read=_NETWORK | names("sigma_data sigma_min sigma_max training_mode distillation"),
    only=_U_NET_ONLY,
    harmless={
        **_SHARED,
        "these networks have one order": _ORDER,
        TRAINING: _SHARED[TRAINING]
        | names(
            "weight_schedule teacher_model_path teacher_dropout target_ema_mode "
            "scale_mode total_training_steps start_ema start_scales end_scales "
            "distill_steps_per_iter loss_norm global_batch_size"
        ),
        SAMPLING: _SHARED[SAMPLING]
        | names("rho generator s_churn s_tmin s_tmax s_noise steps ts"),
    },
)
# Names of arguments, and of the flags that scripts of the classifier have for them.
FLAGS = {
    "num_channels": "classifier_width",
    "num_res_blocks": "classifier_depth",
    "use_scale_shift_norm": "classifier_use_scale_shift_norm",
    "resblock_updown": "classifier_resblock_updown",
}
CLASSIFIER_SETTINGS = Settings(
    owner="classifier of guided diffusion",
    read=(_NETWORK - names("class_cond num_classes learn_sigma"))
    | _ORDER
    | frozenset(FLAGS.values())
    | names("diffusion_steps steps rescale_timesteps"),
    only=_ONLY
    | {
        "class_name": Only(("EncoderUNetModel", None)),
        "pool": Only(("attention",), "other heads have other tensors"),
        "classifier_pool": Only(("attention",), "other heads have other tensors"),
    },
    harmless={
        **_SHARED,
        SHAPES: _SHARED[SHAPES]
        | names("num_classes class_cond classifier_attention_resolutions"),
        COMPUTING: _SHARED[COMPUTING] | names("classifier_use_fp16"),
        "they concern the diffusion that the classifier guides": names(
            "learn_sigma noise_schedule predict_xstart model_mean_type model_var_type"
        ),
    },
)
