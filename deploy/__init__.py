"""From a trained network to one that runs elsewhere: its LIF twin, calibrated reset values (Table 8), NIR."""
