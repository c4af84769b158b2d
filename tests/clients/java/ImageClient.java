import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.Map;
import java.util.stream.Collectors;

/**
 * java ImageClient.java URL PICTURE: the JDK's own HTTP client as it is by default, which offers HTTP/2 in each
 * request over a new connection (Upgrade: h2c).
 */
public class ImageClient {
    private static final String WHOLE = "\"prompt\": \"a red apple\", \"size\": \"96x64\", \"seed\": 5";
    private static final String TURBO = "\"model\": \"z-image-turbo\", ";
    private static final String INSTRUCTION = "make the background red";
    private static final String BOUNDARY = "between-the-parts";

    private final String url;

    private ImageClient(String url) {
        this.url = url;
    }

    public static void main(String[] args) throws Exception {
        var client = new ImageClient(args[0]);
        byte[] picture = Files.readAllBytes(Path.of(args[1]));
        var generations = "/images/generations";
        client.tell("generate", generations, json("{" + TURBO + WHOLE + "}"));
        client.tell("several", generations, json("{" + TURBO + WHOLE + ", \"n\": 2}"));
        client.tell("edit", "/images/edits", form(picture, Map.of()));
        client.tell("json_edit", "/images/edits", json("{\"model\": \"z-image-edit\", \"seed\": 5, \"prompt\": \""
            + INSTRUCTION + "\", \"images\": [{\"image_url\": \"data:image/png;base64,"
            + Base64.getEncoder().encodeToString(picture) + "\"}]}"));
        client.tell("stream", generations, json("{" + TURBO + WHOLE + ", \"stream\": true, \"partial_images\": 2}"));
        client.tell("edit_stream", "/images/edits", form(picture, Map.of("stream", "true", "partial_images", "1")));
        client.tell("refused", generations, json("{" + TURBO + WHOLE.replace("96x64", "65x64") + "}"));
        client.tell("unknown_model", generations, json("{\"model\": \"no-such-model\", " + WHOLE + "}"));
    }

    private record Body(String mediaType, BodyPublisher bytes) {}

    private static Body json(String text) {
        return new Body("application/json", BodyPublishers.ofString(text));
    }

    private static Body form(byte[] picture, Map<String, String> more) throws Exception {
        var bytes = new ByteArrayOutputStream();
        var fields = new java.util.TreeMap<>(more);
        fields.putAll(Map.of("model", "z-image-edit", "prompt", INSTRUCTION, "seed", "5"));
        for (var field : fields.entrySet()) {
            bytes.write(("--" + BOUNDARY + "\r\nContent-Disposition: form-data; name=\"" + field.getKey() + "\"\r\n\r\n"
                + field.getValue() + "\r\n").getBytes(StandardCharsets.UTF_8));
        }
        bytes.write(("--" + BOUNDARY + "\r\nContent-Disposition: form-data; name=\"image\"; filename=\"apple.png\"\r\n"
            + "Content-Type: image/png\r\n\r\n").getBytes(StandardCharsets.UTF_8));
        bytes.write(picture);
        bytes.write(("\r\n--" + BOUNDARY + "--\r\n").getBytes(StandardCharsets.UTF_8));
        return new Body("multipart/form-data; boundary=" + BOUNDARY, BodyPublishers.ofByteArray(bytes.toByteArray()));
    }

    /** Sends a case over a connection of its own, and prints its answer; the body is JSON, or events of JSON. */
    private void tell(String name, String path, Body body) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(url + path))
            .header("Content-Type", body.mediaType)
            .POST(body.bytes)
            .build();
        var answer = HttpClient.newHttpClient().send(request, BodyHandlers.ofString());
        boolean isStream = answer.headers().firstValue("Content-Type").orElse("").startsWith("text/event-stream");
        String said = isStream
            ? "\"events\": " + answer.body().lines().filter(line -> line.startsWith("data: "))
                .map(line -> line.substring(6)).collect(Collectors.joining(", ", "[", "]"))
            : "\"body\": " + answer.body().strip();
        System.out.printf("{\"case\": \"%s\", \"status\": %d, %s}%n", name, answer.statusCode(), said);
    }
}
