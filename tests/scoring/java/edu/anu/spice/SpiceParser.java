package edu.anu.spice;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Stands where SpiceParser needs CoreNLP's models: "red-cat" is a red cat, "cat-on-mat" is a relation; some texts do harm. */
public class SpiceParser {
    private final Path log = Paths.get(System.getenv("SPICE_TEST_LOG"));

    public SpiceParser(String database, int threads, Boolean merge) {}

    protected Map<String, ArrayList<ArrayList<String>>> loadTuples(List<String> texts) {
        System.out.println("a parser that talks");
        Map<String, ArrayList<ArrayList<String>>> parsed = new HashMap<>();
        try {
            for (String text : texts) {
                boolean again = Files.exists(log) && Files.readAllLines(log).contains(text);
                Files.write(log, Arrays.asList(text), StandardOpenOption.CREATE, StandardOpenOption.APPEND);
                if (text.equals("die") || text.equals("die once") && !again) {
                    System.err.println("the parser is gone");
                    Runtime.getRuntime().halt(7);
                }
                if (text.equals("hang")) {
                    Thread.sleep(600_000);
                }
                if (text.equals("refuse")) {
                    throw new IllegalStateException("too hard");
                }
                parsed.put(text, tuples(text));
            }
        } catch (IOException | InterruptedException error) {
            throw new RuntimeException(error);
        }
        return parsed;
    }

    private static ArrayList<ArrayList<String>> tuples(String text) {
        ArrayList<ArrayList<String>> tuples = new ArrayList<>();
        for (String word : text.replaceAll("[.]", "").trim().split(" +")) {
            String[] parts = word.split("-");
            if (parts.length == 3) {
                tuples.add(new ArrayList<>(Arrays.asList(parts[0], parts[2], parts[1])));
            } else if (parts.length == 2) {
                tuples.add(new ArrayList<>(Arrays.asList(parts[1], parts[0])));
            } else if (!word.isEmpty()) {
                tuples.add(new ArrayList<>(Arrays.asList(word)));
            }
        }
        return tuples;
    }
}
