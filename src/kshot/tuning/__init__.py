"""What is learnt when an example arrives. One file a method; this table makes them known."""

TUNERS: dict[str, str] = {
    "fine-tune": "kshot.tuning.fine_tune:FineTune",
    "icl+ft": "kshot.tuning.icl_ft:IclFt",
}
