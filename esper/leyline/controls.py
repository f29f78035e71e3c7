"""Controls: networks that a run trains beside its grown members, to say what growing was worth."""

TWIN, FINAL, FINAL_EPOCHS = CONTROLS = ("twin", "final", "final_epochs")
# Trained from scratch once growth has ended: for the training FLOPs of the grown member, or for as many epochs.
FINALS = (FINAL, FINAL_EPOCHS)
TITLES = {TWIN: "static twin", FINAL: "final", FINAL_EPOCHS: "final, epochs"}
BACKWARD = 3  # a training step costs about three forward passes


def difference_name(control: str) -> str:
    """Under what a run's summary has the grown members' scores minus this control's."""
    return "difference" if control == TWIN else f"{control}_difference"
