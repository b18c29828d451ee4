"""Sizes of a model, taken from the data."""

from hookline import ContractError, DataSource


def sizes_of(data: DataSource) -> tuple[int, int]:
    """Return the numbers of input and output features of a model for these data.

    Raises:
        ContractError: If the data source does not give them.
    """
    if data.in_features is None or data.out_features is None:
        hint = "set them in the DataSource that build_data returns"
        if data.kept.get("categories") == "codes":
            hint = "set data.categories = 'one-hot', or take a model of codes, such as 'tabular'"
        raise ContractError(
            "the model needs in_features and out_features, which the data source does not give", hint=hint
        )
    return data.in_features, data.out_features
