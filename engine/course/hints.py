"""Hints for the exercises, three for each: a question, the idea, the way. None is the solution.

`python rewards.py --hint 3b` shows the first, `python rewards.py --hint 3b 2` the second; the
notebook folds the same texts away. Reading on here spoils the game.
"""

LEVELS = ("a question", "the idea", "the way")
HINTS = {
    "1": (
        'Take the prompt "The worst film of the year was" and a completion that praises the '
        "food in the cinema. Which part would a reader call negative, and which part did the "
        "policy write?",
        "A policy changes only what it writes itself. Whatever else enters the score is the same "
        "for the whole group, or the policy finds a way to use it.",
        "Score a few completions with and without their prompts in the notebook: "
        "`get_sentiment_scores` takes any list of texts. Look for a completion whose score moves "
        "although not one of its words has changed, and say what a policy would make of it.",
    ),
    "2a": (
        "Which two things does the formula in the docstring need for each completion, and which "
        "function gives you the first of them for a whole list?",
        "First all scores at once, with one call. Then one number for each score, by the formula. "
        "Which Python module, imported already, knows exp?",
        "Two lines: a call that turns the N texts into N scores, and a list comprehension over "
        "the scores. The temperature divides inside exp, the 1 is subtracted outside. Return "
        "plain floats, one for each completion, in the same order.",
    ),
    "2b": (
        'Read " good good good good good good good" and one real review. How could a program '
        "tell them apart without knowing what the words mean?",
        "Begin with the score, so that a better score earns more. Then pay less for what you do "
        "not want: repeated words, texts of two words. Counting words is enough.",
        "One number between 0 and 1 for each thing you ask for, such as the share of different "
        "words among all words, and the score times these numbers. Look at the empty text before "
        "you divide by a count. Let a wish for length end somewhere, or the policy will never "
        "stop.",
    ),
    "3a": (
        "The model reads a text of L tokens and returns logits for L positions. Which of them "
        "speaks about the first token of the completion: the one at that token, or the one "
        "before it?",
        "Run the model once over prompt and completion together. Log-probabilities come from "
        "`log_softmax` over the vocabulary. Keep the positions whose next token belongs to the "
        "completion, take the entry of that next token from each, and add them up.",
        "For each pair: the ids of the prompt and of the completion, joined, as a tensor of shape "
        "(1, L) on the model's device. No gradient is needed. With P prompt tokens the rows start "
        "at position P − 1 and end one before the last; the targets start at P. `gather` picks "
        "one entry from each row. Try an empty completion: the sum is 0. The notebook's cell "
        "above exercise 3a does the same for a single text, one token at a time.",
    ),
    "3b": (
        "Which number is positive where the policy likes a token more than the reference does, "
        "negative where it likes it less, and 0 where they agree?",
        "Differentiate KL(policy‖ref) = Σ q · (log q − log p) by the policy's weights, and write "
        "the result in the form E_q[c · ∇ log q]. What stands in the place of c? A constant "
        "beside it does not count: E_q[∇ log q] = 0.",
        "One number for each token out of its two log-probabilities, without any exp, square or "
        "absolute value. Entries outside the mask must not count. Sum over the last dimension, "
        "times kl_coef.",
    ),
    "3c": (
        "With r = p/q: what is r where the policy likes a token far more than the reference does, "
        "and what where far less? Which sign should the penalty have at each end?",
        "The docstring gives f(r) = r · log r and the rule f(r) − r · f′(r). Differentiate with "
        "the product rule. Two terms cancel.",
        "What is left is very short: no logarithm is in it. Add the constant that makes it 0 "
        "where policy and reference agree; a constant does not pull. Then r comes from the "
        "difference of the log-probabilities by `exp`, after a clamp from above. Mask, sum and "
        "kl_coef as in exercise 3b. Check the sign: where the policy likes the token too much, "
        "the penalty is positive.",
    ),
    "4a": (
        "Eight completions answer one prompt, the next eight another. With what should a "
        "completion be compared: with all sixteen, or with its own eight?",
        "A table with one row for each prompt makes it short: mean and standard deviation of each "
        "row, and every entry of the row minus the one, divided by the other.",
        "`view` makes the table, (B / G, G). `mean` and `std` over its last dimension need "
        "`keepdim=True`, so that they are subtracted and divided row by row. 1e-4 belongs to the "
        "deviation: what does a row of equal rewards give without it? At the end, flatten.",
    ),
    "4b": (
        "A token has an advantage of +1 and is already 1.5 times as likely as when it was sampled. "
        "Should the step go on? And if its advantage is −1?",
        "The ratio of two probabilities is the exp of the difference of their logarithms. For "
        "each token there are two products, that of the advantage with the ratio and that with "
        "the clipped ratio; the smaller one counts. The loss is minus its mean.",
        "Advantages are (B,) and tokens (B, T): give them a last dimension of one. `clamp` and "
        "`torch.minimum` do the rest. Then the mean: multiply by the mask, sum over everything, "
        "divide once by the number of real tokens of the whole batch. Let the gradient flow: no "
        "detach, no item. Right after sampling each real token's gradient is −A / N.",
    ),
    "bonus": (
        "What do you want to read that the sentiment alone does not ask for? How would you count "
        "it in a text?",
        "Score first, then more or less for your wish. Mind the sizes: what varies by 0.01 "
        "within a group is not heard beside what varies by 0.5.",
        "One list of scores, one list of your own figures of the same length, and their sum or "
        "product, item by item. Every number must be finite, for the empty text too. Before you "
        "train, write down the text that would earn the most.",
    ),
}
