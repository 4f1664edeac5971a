import edu.anu.spice.Evaluation;
import edu.anu.spice.SceneGraph;
import edu.anu.spice.SceneGraphNode;
import edu.anu.spice.SemanticConcept;
import edu.anu.spice.SemanticTuple;
import edu.anu.spice.SpiceParser;
import edu.anu.spice.TupleSet;
import edu.cmu.meteor.aligner.SynonymDictionary;
import edu.cmu.meteor.util.Constants;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import org.json.simple.JSONArray;
import org.json.simple.JSONObject;
import org.json.simple.JSONValue;

/**
 * SPICE (arXiv 1607.08822) by its original classes, one JSON line in, one JSON line out:
 *
 *   {"texts": [text, ...]}                    -> {"parsed": [tuples or {"error": reason}, ...]}
 *   {"pairs": [[candidate, reference], ...]}  -> {"scores": [{f, pr, re, matched, missing, extra}, ...]}
 *
 * A tuple is a list of strings: [object], [object, attribute] or [subject, object, relation]. Scores show tuples as
 * they were compared, synonyms within a caption merged.
 * A request that fails is answered by {"error": reason}. The end of the input ends the process.
 *
 * Compiled for Java 8 by javac 17, beside this source; in the folder of pycocoevalcap 1.2:
 *   javac --release 8 -Xlint:-options -cp "spice/spice-1.0.jar:spice/lib/*:tokenizer/*" SpiceServer.java
 */
@SuppressWarnings("unchecked")
public final class SpiceServer {
    private final int threads;
    private Parser parser; // loads CoreNLP's models, which scores do not need
    private SynonymDictionary synonyms;

    private SpiceServer(int threads) {
        this.threads = threads;
    }

    public static void main(String[] arguments) throws IOException {
        PrintStream answers = new PrintStream(new FileOutputStream(FileDescriptor.out), true, "UTF-8");
        System.setOut(System.err); // what CoreNLP prints is no answer
        SpiceServer server = new SpiceServer(Integer.parseInt(arguments[0]));
        BlockingQueue<String> questions = new LinkedBlockingQueue<>();
        Thread worker = new Thread(() -> {
            while (true) {
                try {
                    answers.println(server.answer(questions.take()));
                } catch (InterruptedException stopped) {
                    return;
                }
            }
        });
        worker.setDaemon(true);
        worker.start();
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = input.readLine()) != null;) {
            questions.add(line);
        }
        Runtime.getRuntime().halt(0); // whoever asked is gone: end even in the middle of a request
    }

    private JSONObject answer(String line) {
        JSONObject answer = new JSONObject();
        try {
            JSONObject question = (JSONObject) JSONValue.parse(line);
            if (question.containsKey("texts")) {
                answer.put("parsed", parsed((List<String>) question.get("texts")));
            } else {
                answer.put("scores", scores((List<List<List<ArrayList<String>>>>) question.get("pairs")));
            }
        } catch (Throwable failure) {
            answer.put("error", reason(failure));
        }
        return answer;
    }

    /** The tuples of every text; one that fails must not take the others of its batch with it. */
    private JSONArray parsed(List<String> texts) throws IOException {
        if (parser == null) {
            parser = new Parser(threads);
        }
        JSONArray parsed = new JSONArray();
        try {
            Map<String, ArrayList<ArrayList<String>>> tuples = parser.tuples(texts);
            for (String text : texts) {
                parsed.add(tuples.get(text));
            }
        } catch (Throwable failure) {
            if (texts.size() > 1) {
                for (String text : texts) {
                    parsed.addAll(parsed(Collections.singletonList(text)));
                }
            } else {
                JSONObject why = new JSONObject();
                why.put("error", reason(failure));
                parsed.add(why);
            }
        }
        return parsed;
    }

    private JSONArray scores(List<List<List<ArrayList<String>>>> pairs) throws IOException {
        if (synonyms == null) {
            String folder = Constants.DEFAULT_SYN_DIR_URL.toString();
            synonyms = new SynonymDictionary(new URL(folder + "/english.exceptions"),
                    new URL(folder + "/english.synsets"), new URL(folder + "/english.relations"));
        }
        JSONArray scores = new JSONArray();
        for (List<List<ArrayList<String>>> pair : pairs) {
            scores.add(score(new TupleSet(graph(pair.get(0))), new TupleSet(graph(pair.get(1)))));
        }
        return scores;
    }

    private Graph graph(List<ArrayList<String>> tuples) {
        Graph graph = new Graph(synonyms);
        for (ArrayList<String> tuple : tuples) {
            if (tuple.isEmpty() || tuple.size() > 3) { // which the original leaves out without a word
                throw new IllegalArgumentException("SPICE has no tuple " + tuple);
            }
            graph.addTuple(tuple);
        }
        return graph;
    }

    private static JSONObject score(TupleSet candidate, TupleSet reference) {
        Evaluation evaluation = new Evaluation(candidate, reference, false, true); // marks the tuples that match
        JSONObject score = new JSONObject();
        score.put("f", evaluation.f);
        score.put("pr", evaluation.pr);
        score.put("re", evaluation.re);
        score.put("matched", words(reference, true));
        score.put("missing", words(reference, false));
        score.put("extra", words(candidate, false));
        return score;
    }

    private static JSONArray words(TupleSet tuples, boolean matched) {
        JSONArray chosen = new JSONArray();
        for (int i = 0; i < tuples.size(); i++) {
            SemanticTuple tuple = (SemanticTuple) tuples.get(i);
            if (tuple.truthValue == matched) {
                JSONArray words = new JSONArray();
                for (SemanticConcept concept : tuple.tuple) {
                    words.add(concept.toString());
                }
                if (words.size() == 3) {
                    Collections.swap(words, 1, 2); // the original has a relation between its two
                }
                chosen.add(words);
            }
        }
        return chosen;
    }

    /** The innermost cause that says something. */
    private static String reason(Throwable failure) {
        String said = failure.toString();
        for (Throwable cause = failure; cause != null; cause = cause.getCause()) {
            said = cause.getMessage() == null ? said : cause.toString();
        }
        return said.trim().replaceAll("\\s+", " ");
    }

    private static final class Parser extends SpiceParser {
        Parser(int threads) {
            super(null, threads, true);
        }

        Map<String, ArrayList<ArrayList<String>>> tuples(List<String> texts) {
            return loadTuples(texts);
        }
    }

    /**
     * The original graph, the same every time. An object that is as similar to several others joins the first of them;
     * the original takes them in the order of hash codes that are new in every run, this one in the order of the text.
     */
    private static final class Graph extends SceneGraph {
        private static final long serialVersionUID = 1L;

        Graph(SynonymDictionary synonyms) {
            super(synonyms);
        }

        @Override
        protected SceneGraphNode getOrAddNode(SemanticConcept concept) {
            SceneGraphNode added = new Node(concept, graph.getNumVertices());
            SceneGraphNode nearest = null;
            for (SceneGraphNode node : graph.getAllVertices()) {
                if (node.getObject().equals(concept)) {
                    return node;
                }
                if (added.similarity(node) > (nearest == null ? 0 : added.similarity(nearest))) {
                    nearest = node;
                }
            }
            if (nearest == null) {
                graph.addVertex(added);
                return added;
            }
            nearest.merge(added);
            return nearest;
        }
    }

    private static final class Node extends SceneGraphNode {
        private static final long serialVersionUID = 1L;
        private final int index;

        Node(SemanticConcept object, int index) {
            super(object);
            this.index = index;
            this.attributes = new LinkedHashSet<>();
        }

        @Override
        public int hashCode() {
            return index;
        }
    }
}
