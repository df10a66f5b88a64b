"""Sentences are read as they are, and become ids of words and letters."""

import pytest


@pytest.fixture(scope="module")
def sentences(example):
    return example("sentences")


def test_snips_is_read_line_by_line(sentences, snips):
    part = sentences.read_snips(snips / "valid")
    assert part.words[1] == ["play", "some", "hard", "rock"]
    assert part.tags[1] == ["O", "O", "B-genre", "I-genre"]
    assert part.intents == ["PlayMusic", "PlayMusic", "GetWeather", "GetWeather"]
    assert part[1:3].words == part.words[1:3]


def test_rare_words_stay_unknown_and_case_is_left_to_the_letters(sentences):
    vocabulary = sentences.collect_vocabulary([["Rain", "in", "Paris"], ["rain", "in", "rome"]])
    assert vocabulary.words == ["in", "rain"]
    assert vocabulary.letters == sorted(set("RaininParisrainrome"))
    inputs = sentences.encode_words([["RAIN", "rain"]], vocabulary)
    assert inputs["words"][0].numpy().tolist() == [3, 3]
    upper, lower = inputs["letters"][0].numpy().tolist()
    assert upper != lower


def test_letters_have_ids_and_those_beyond_the_longest_word_are_cut_off(sentences):
    vocabulary = sentences.Vocabulary(["in", "rain"], ["a", "i", "n", "r"])
    inputs = sentences.encode_words([["minä"], ["a" * 40, "in"]], vocabulary)
    assert inputs["letters"].shape.as_list() == [2, None, sentences.LONGEST_WORD]
    # m and ä are unknown, i and n are not; 0 is padding.
    assert inputs["letters"][0, 0, :6].numpy().tolist() == [1, 3, 4, 1, 0, 0]
    assert inputs["letters"][1, 0].numpy().tolist() == [2] * sentences.LONGEST_WORD


def test_tags_that_do_not_match_the_words_name_file_and_line(sentences, write_snips, tmp_path):
    rows = [("rain in rome", "O O O", "GetWeather"), ("rain in rome", "O O", "GetWeather")]
    with pytest.raises(ValueError, match=r"seq\.out, line 2: 2 tags for the 3 words"):
        sentences.read_snips(write_snips(tmp_path / "train", rows))


def test_files_of_different_length_are_refused(sentences, write_snips, tmp_path):
    folder = write_snips(tmp_path / "train")
    (folder / "label").write_text("PlayMusic\n")
    with pytest.raises(ValueError, match=r"`seq\.in` has 4, `seq\.out` 4, `label` 1"):
        sentences.read_snips(folder)


def test_a_line_without_an_intent_is_refused(sentences, write_snips, tmp_path):
    folder = write_snips(tmp_path / "train", [("rain", "O", "Play Music")])
    with pytest.raises(ValueError, match=r"label, line 1: one intent, received \['Play', 'Music"):
        sentences.read_snips(folder)


def test_labels_that_training_does_not_have_are_named(sentences):
    with pytest.raises(ValueError, match=r"no tag \['B-moon'\]"):
        sentences.numbered("tag", ["O", "B-moon"], ["O", "B-city"])
