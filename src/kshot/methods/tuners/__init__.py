"""What is learnt when an example arrives. One file a method; this table makes them known."""

TUNERS: dict[str, str] = {
    "fine-tune": "kshot.methods.tuners.fine_tune:FineTune",
    "icl+ft": "kshot.methods.tuners.icl_ft:IclFt",
}
